"""TensorBoard's messages, those parts of them that are written here.

One rule: names and numbers are those of TensorBoard's own .proto files; the rest of a message that is read is kept.

They are made when they are first used, for protobuf takes its time: `message("Event")(step=3)`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

FILE_VERSION = "brain.Event:2"
START = 1
"""Of a session: TensorBoard forgets what it knows from its step on."""
STRING = 7
"""The type of a tensor of texts."""

_PACKAGE = "codex_tensorboard"
_FIELDS = {
    "Event": "double wall_time 1, int64 step 2, string file_version 3, Summary summary 5, SessionLog session_log 7",
    "SessionLog": "int32 status 1",
    "Summary": "Value* value 1",
    "Value": "string tag 1, float simple_value 2, Tensor tensor 8, Metadata metadata 9",
    "Metadata": "PluginData plugin_data 1",
    "PluginData": "string plugin_name 1, bytes content 2",
    "Tensor": "int32 dtype 1, Shape tensor_shape 2, bytes* string_val 8",
    "Shape": "Dim* dim 2",
    "Dim": "int64 size 1",
    # the tab HPARAMS
    "HParamsPluginData": "int32 version 1, Experiment experiment 2, SessionStart session_start_info 3, "
    "SessionEnd session_end_info 4",
    "Experiment": "HParamInfo* hparam_infos 4, MetricInfo* metric_infos 5",
    "HParamInfo": "string name 1, int32 type 4",
    "MetricInfo": "MetricName name 1",
    "MetricName": "string tag 2",
    "SessionStart": "HParam* hparams 1, double start_time_secs 5",
    "HParam": "string key 1, AnyValue value 2",  # an entry of a map, which is written like this
    "AnyValue": "double number_value 2, string string_value 3, bool bool_value 4",
    "SessionEnd": "int32 status 1, double end_time_secs 2",
}
_TYPES = {"double": 1, "float": 2, "int64": 3, "int32": 5, "bool": 8, "string": 9, "bytes": 12}
_MESSAGE, _OPTIONAL, _REPEATED = 11, 1, 3


def message(name: str) -> Any:
    """Return the class of a message."""
    return _classes()[name]


@cache
def _classes() -> dict[str, Any]:
    from google.protobuf import (  # type: ignore[import-untyped,unused-ignore] # its types are a package apart
        descriptor_pb2,
        descriptor_pool,
        message_factory,
    )

    file = descriptor_pb2.FileDescriptorProto(name=f"{_PACKAGE}.proto", package=_PACKAGE, syntax="proto2")
    for name, fields in _FIELDS.items():
        made = file.message_type.add(name=name)
        for field in fields.split(", "):
            kind, label, number = field.split()
            plain = kind.rstrip("*")
            made.field.add(
                name=label,
                number=int(number),
                label=_REPEATED if kind != plain else _OPTIONAL,
                type=_TYPES.get(plain, _MESSAGE),
                type_name=None if plain in _TYPES else f".{_PACKAGE}.{plain}",
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in _FIELDS
    }


# ── what a summary holds ──────────────────────────────────────────────────────────────────────────────────────────


def scalars(values: dict[str, float]) -> Any:
    """Return a summary of numbers by their tags; NaN and infinities stand as they are."""
    of_value = message("Value")
    return message("Summary")(value=[of_value(tag=tag, simple_value=value) for tag, value in values.items()])


def text(tag: str, words: str) -> Any:
    """Return a summary of a text, which TensorBoard reads as Markdown."""
    tensor = message("Tensor")(
        dtype=STRING,
        tensor_shape=message("Shape")(dim=[message("Dim")(size=1)]),
        string_val=[words.encode(errors="replace")],
    )
    return _of_plugin(tag, "text", b"", tensor)


def hyperparameters(settings: dict[str, object], metrics: tuple[str, ...], now: float) -> list[Any]:
    """Return the two summaries that begin a session of the tab HPARAMS."""
    of_info, of_metric, of_name = message("HParamInfo"), message("MetricInfo"), message("MetricName")
    values = {name: _value(setting) for name, setting in settings.items()}
    experiment = message("Experiment")(
        hparam_infos=[of_info(name=name, type=kind) for name, (kind, _) in values.items()],
        metric_infos=[of_metric(name=of_name(tag=tag)) for tag in metrics],
    )
    start = message("SessionStart")(
        hparams=[message("HParam")(key=name, value=value) for name, (_, value) in values.items()],
        start_time_secs=now,
    )
    return [
        _of_hparams("experiment", experiment=experiment),
        _of_hparams("session_start_info", session_start_info=start),
    ]


def session_end(*, well: bool, now: float) -> Any:
    """Return the summary that ends a session of the tab HPARAMS."""
    end = message("SessionEnd")(status=1 if well else 2, end_time_secs=now)
    return _of_hparams("session_end_info", session_end_info=end)


def _value(setting: object) -> tuple[int, Any]:
    """Return the type of a hyperparameter, by TensorBoard's number for it, and its value."""
    of_value = message("AnyValue")
    if isinstance(setting, bool):
        return 2, of_value(bool_value=setting)
    if isinstance(setting, int | float):
        return 3, of_value(number_value=float(setting))
    return 1, of_value(string_value=_utf8("null" if setting is None else str(setting)))


def _of_hparams(tag: str, **content: Any) -> Any:
    data = message("HParamsPluginData")(version=0, **content).SerializeToString()
    return _of_plugin(f"_hparams_/{tag}", "hparams", data, None)


def _of_plugin(tag: str, plugin: str, content: bytes, tensor: Any) -> Any:
    data = message("PluginData")(plugin_name=plugin, content=content)
    value = message("Value")(tag=tag, metadata=message("Metadata")(plugin_data=data))
    if tensor is not None:
        value.tensor.CopyFrom(tensor)
    return message("Summary")(value=[value])


def _utf8(words: str) -> str:
    """Return a text that UTF-8 can hold: a path may have bytes that are none."""
    return words.encode(errors="replace").decode()
