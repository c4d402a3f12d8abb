"""The step `secrets`: each rule with texts that it finds and texts that it leaves alone, and what becomes of a find."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import pkgutil
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_clean.rules import Searched
from codex_clean.secret_rules import DETECTORS, NAMES, OFF_BY_DEFAULT, OWN, rules
from codex_clean.secrets import Secrets
from codex_kernel import Document, InputError, Message

# Put together from pieces, so that no scanner of repositories takes this file for a leak.
MIXED = "aZ3bY7cX1dW9eV5fU2gT8hS4iR6jQ0kPlOmN"  # 36
HEX = "0123456789abcdef" * 8
PEM = "-----BEGIN RSA PRIVATE " + "KEY-----"
PEM_END = "-----END RSA PRIVATE " + "KEY-----"
BODY = "MIIEpAIBAAKCAQEA" + "x7Qk9Zp3Lm" * 5
WEB_TOKEN = (
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9",
    "eyJzdWIiOiIxMjM0NTY3ODkwIn0",
    "dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
)

FOUND = {
    "private-key": [f"{PEM}\n{BODY}\n{BODY}\n{PEM_END}"],
    "anthropic-api-key": ["sk-" + "ant-api03-" + MIXED + MIXED],
    "aws-secret-key": [
        "AWS_SECRET_ACCESS_KEY=" + MIXED + "Ab+/",
        "aws_secret_access_key: '" + MIXED + "Ab+/'",
    ],
    "databricks-token": ["dapi" + HEX[:32]],
    "digitalocean-token": ["dop_v1_" + HEX[:64]],
    "docker-token": ["dckr_" + "pat_" + MIXED[:27]],
    "github-fine-grained-token": ["github_" + "pat_" + MIXED + MIXED],
    "google-api-key": ["AIza" + MIXED[:35]],
    "google-oauth-secret": ["GOCSPX" + "-" + MIXED[:28]],
    "hugging-face-token": ["hf_" + "abcdefghijklmnopqrstuvwxyzABCDEFGH"],
    "npm-access-token": ["npm_" + MIXED],
    "openai-api-key": ["sk-" + "proj-" + MIXED + "_-" + MIXED],
    "shopify-token": ["shpat_" + HEX[:32]],
    "slack-app-token": ["xapp-" + "1-A0B1C2D3E4-1234567890123-" + HEX[:64]],
    "slack-config-token": ["xoxe" + ".xoxp-1-" + MIXED],
    "url-password": [
        "postgres://admin:" + "s3cr!t-Pa55@db.internal:5432/app",
        "redis://:" + "Zk7pQ2@cache:6379",
    ],
    "vault-token": ["hvs." + MIXED],
    "artifactory-credentials": ['"AKC' + "p5budTFpbypBNQbGJPz3pGC" + '"'],
    "aws-access-key": ["AKIA" + "QW3R7TY5UIOPLK8J", "aws_key = '" + MIXED + "Ab+/'"],
    "azure-storage-key": ["AccountKey=" + "Ab1+" * 22],
    "basic-auth": ["https://admin:" + "password@host"],
    "cloudant-credentials": ["cloudant_password = '" + HEX[:64] + "'"],
    "discord-bot-token": ["M" + "TIzNDU2Nzg5MDEyMzQ1Njc4" + ".XabcDe." + MIXED[:27]],
    "github-token": ["ghp_" + MIXED],
    "gitlab-token": ["glpat-" + "aB3dE5gH7jK9mN1pQ3sT"],
    "ibm-cloud-iam-key": ["ibm_api_key = '" + MIXED + "-_aB9cD8" + "'"],
    "ibm-cos-hmac": ["secret_access_key = '" + HEX[:48] + "'"],
    "json-web-token": [".".join(WEB_TOKEN)],
    "mailchimp-key": [HEX[:32] + "-us12"],
    "npm-token": ["//registry.npmjs.org/:_authToken=" + "npm_" + "x7Qk9Zp3Lm"],
    "openai-token": ["sk-" + "x7Qk9Zp3Lmx7Qk9Zp3Lm" + "T3BlbkFJ" + "x7Qk9Zp3Lmx7Qk9Zp3Lm"],
    "private-key-marker": [PEM],
    "public-ip": ["93.184.216.34"],
    "pypi-token": ["pypi-" + "AgEIcHlwaS5vcmc" + MIXED + MIXED],
    "sendgrid-key": ["SG." + MIXED[:22] + "." + MIXED + "abcdefg"],
    "slack-token": [
        "xoxb-" + "123456789012-abcdefGHIJ",
        "https://hooks.slack.com/services/" + "T0A1/B0C2/x7Qk9Zp3Lm",
    ],
    "softlayer-credentials": ["softlayer_api_key = '" + HEX[:64] + "'"],
    "square-oauth-secret": ["sq0csp-" + MIXED + "abcdefg"],
    "stripe-key": ["sk_live_" + MIXED[:24]],
    "telegram-bot-token": ["110201543:" + "AA" + MIXED[:33]],
    "twilio-key": ["AC" + HEX[:32]],
    "base64-high-entropy": ['token = "' + MIXED + '"'],
    "hex-high-entropy": ['digest = "' + "9f8b7c6d5e4f3a2b1c0d" + '"'],
    "keyword": ['password = "' + "korrekt-Pferd-9" + '"'],
}
LEFT = {
    "private-key": [f"{PEM}\n{PEM_END}", f"if line == '{PEM}':", "-----BEGIN PUBLIC KEY-----\n" + BODY],
    "anthropic-api-key": ["sk-ant-api03-...", "task-antenna"],
    "aws-secret-key": [
        "aws_secret_access_key = os.environ['AWS_SECRET_ACCESS_KEY']",
        "aws_key = " + "a" * 40,
    ],
    "databricks-token": ["dapindex", "dapi" + "0" * 31 + "g"],
    "digitalocean-token": ["dop_v1_short", "foo_v1_" + HEX[:64]],
    "docker-token": ["dckr_pat_", "docker_path"],
    "github-fine-grained-token": ["github_pat_xyz", "github_path = 1"],
    "google-api-key": ["AIza", "AIza" + MIXED[:35] + "tooLong"],
    "google-oauth-secret": ["GOCSPX-", "GOCSPX-" + MIXED[:28] + "tooLong"],
    "hugging-face-token": ["hf_hub_download(repo_id)", "self.hf_" + "a" * 33],
    "npm-access-token": ["npm_config_registry", "npm_" + MIXED + "1"],
    "openai-api-key": ["sk-project", "task-proj-" + "x" * 20],
    "shopify-token": ["shpat_", "shape"],
    "slack-app-token": ["xapp-1-", "xapp-1-A0B1C2D3E4-1234567890123-zz"],
    "slack-config-token": ["xoxe", "xoxb-short"],
    "url-password": [
        "https://user:password@host/",
        "http://%s:%s@%s/",
        "postgres://{user}:{password}@{host}",
        "http://localhost:8080/@scope",
        "git+ssh://git@github.com:owner/repo",
        "https://example.org/a:b@c",
        "ftp://$USER:$PASS@host",
    ],
    "vault-token": ["hvs.py", "hvac.Client"],
    "artifactory-credentials": [" APBackgroundTask "],
    "aws-access-key": ["AKIA", "aws_key = load()"],
    "azure-storage-key": ["AccountKey=..."],
    "basic-auth": ["https://host:80/@x"],
    "cloudant-credentials": ["cloudant_password = load()", "class_key = 'some_long_name_of_a_thing'"],
    "discord-bot-token": ["Module.attribute.method"],
    "github-token": ["ghp_example"],
    "gitlab-token": ["glpat-short"],
    "ibm-cloud-iam-key": ["key = some_long_lower_case_name_of_a_function__x44"],
    "ibm-cos-hmac": ["secret_key = get()"],
    "json-web-token": ["eyJhbGciOi.eyJ", "eyJ.method()"],
    "mailchimp-key": ["status-us1"],
    "npm-token": ["//registry.npmjs.org/:_authToken=${NPM_TOKEN}".replace("${NPM_TOKEN}", "")],
    "openai-token": ["T3BlbkFJ"],
    "private-key-marker": ["BEGIN PUBLIC KEY"],
    "public-ip": ["127.0.0.1"],
    "pypi-token": ["pypi-AgEIcHlwaS5vcmc"],
    "sendgrid-key": ["SG.method.call"],
    "slack-token": ["xoxb-", "hooks.slack.com/services/"],
    "softlayer-credentials": ["sl_key = 1"],
    "square-oauth-secret": ["sq0csp-"],
    "stripe-key": ["sk_live_short", "sk_test_" + MIXED[:24]],
    "telegram-bot-token": ["12345678:short"],
    "twilio-key": ["ACCOUNT", "SKIP" + "x" * 20],
    "base64-high-entropy": ['name = "some_words_of_code"'],
    "hex-high-entropy": ['color = "ffffff"'],
    "keyword": ["password = get_password()", 'password = "${PASSWORD}"', "class className: pass"],
}


def found(name: str, text: str) -> list[str]:
    """What a rule finds in a text."""
    (rule,) = rules(frozenset({name}))
    searched = Searched(text)
    return [text[start:end] for finding in rule.find(searched) for start, end in finding.spans]


def clean(text: str, **options) -> str | None:
    """The text that the step leaves; None: the document is dropped."""
    answer = Secrets(**options).codex_cleaner(None).clean(Document("a.py", "a", text))
    return None if answer.document is None else answer.document.text


@pytest.mark.parametrize("name", NAMES)
def test_each_rule_finds_what_it_is_for(name):
    """Every rule has texts that it finds, at the beginning of a text, in its middle, in a long line, in code."""
    assert FOUND[name]
    for text in FOUND[name]:
        assert found(name, text), text
        (where,) = {*found(name, f"x = 1\n{text}\ny = 2\n")} if name != "private-key" else {text}
        assert where in text
        assert found(name, "lorem ipsum " * 3000 + f" {text} " + "dolor sit " * 3000), text


@pytest.mark.parametrize("name", NAMES)
def test_each_rule_leaves_alone_what_only_looks_like_it(name):
    """Every rule has texts that resemble what it is for, in which it finds nothing."""
    assert LEFT[name]
    for text in LEFT[name]:
        assert found(name, text) == [], text
        assert found(name, f"a\n {text}\n") == [], text


@pytest.mark.parametrize("name", [name for name in NAMES if name not in OFF_BY_DEFAULT])
def test_nothing_of_a_secret_is_left(name):
    """After redaction no piece of eight characters of the secret itself is left, and a second pass finds nothing."""
    for text in FOUND[name]:
        redacted = clean(f"# first\nkey = {text}\n# last\n")
        secrets = [piece for rule in NAMES if rule not in OFF_BY_DEFAULT for piece in found(rule, text)]
        for secret in secrets:
            for start in range(len(secret) - 7):
                assert secret[start : start + 8] not in redacted
        assert "<REDACTED:" in redacted
        assert redacted.count("\n") == f"# first\nkey = {text}\n# last\n".count("\n")
        assert clean(redacted) == redacted


def test_a_key_in_a_string_is_redacted_so_that_the_code_still_parses():
    """Of a private key the lines between its markers are replaced, also where each is a string of its own."""
    lines = [PEM, BODY, BODY[:30] + "==", PEM_END]
    for code in (
        'KEY = """' + "\n".join(lines) + '"""\n',
        "KEY = (\n" + "".join(f'    "{line}\\n"\n' for line in lines) + ")\n",
        'KEY = "' + "\\n".join(lines) + '"\n',
    ):
        redacted = clean(code)
        assert "MIIE" not in redacted
        assert BODY[-8:] not in redacted
        assert PEM in redacted
        assert redacted.count("\n") == code.count("\n")
        value = ast.literal_eval(redacted.partition(" = ")[2])
        assert value.strip().splitlines()[1] == "<REDACTED:private-key>"


def test_a_key_without_an_end_is_found():
    """A block that was cut off is redacted up to the last line that looks like a key."""
    redacted = clean(f"{PEM}\n{BODY}\n{BODY}\nordinary words follow here\n")
    assert redacted == f"{PEM}\n<REDACTED:private-key>\n<REDACTED:private-key>\nordinary words follow here\n"


def test_harmless_identifiers_pass():
    """A class name, a hash in prose and words with `key` or `token` in them are no secrets."""
    text = (
        "className = tokenizer.key_of(password_field)\nclass ClassNameResolver: pass\n"
        "sha = 'da39a3ee5e6b4b0d3255bfef95601890afd80709'\nuuid = '123e4567-e89b-12d3-a456-426614174000'\n"
        "api_key = os.environ['API_KEY']\ntoken: str = ''\n<div className='x' data-key={key}>\n"
    )
    assert clean(text) == text


def test_what_is_found_is_counted_once_by_its_first_rule():
    """Where two rules find the same place it is redacted and counted once."""
    key = FOUND["github-token"][0]
    answer = Secrets().codex_cleaner(None).clean(Document("a", "a", f"https://x:{key}@github.com and {key}"))
    assert sum(answer.counts.values()) == 2
    assert key not in answer.document.text
    assert answer.document.text.count("<REDACTED:") == 2


def test_prompts_and_turns_are_redacted_too():
    """A secret is found in a prompt and in any turn; everything else stays."""
    key, step = FOUND["stripe-key"][0], Secrets().codex_cleaner(None)
    answer = step.clean(Document("a", "a", "text", prompt=f"{key}\n"))
    assert (answer.document.prompt, answer.document.text) == ("<REDACTED:stripe-key>\n", "text")
    talk = Document(
        "b", "b", messages=(Message("user", "hello"), Message("assistant", f"no: {key}", trained=False))
    )
    answer = step.clean(talk)
    assert answer.document.messages == (
        Message("user", "hello"),
        Message("assistant", "no: <REDACTED:stripe-key>", trained=False),
    )
    assert answer.counts == {"redacted stripe-key": 1}


def test_drop_leaves_the_document_out():
    """With `drop` the document goes, and what was found is counted."""
    step = Secrets(action="drop").codex_cleaner(None)
    answer = step.clean(Document("a", "a", FOUND["npm-access-token"][0]))
    assert (answer.document, answer.counts) == (None, {"found npm-access-token": 1})


def test_block_ends_the_run_without_telling_the_secret():
    """With `block` the run ends with document, rule and line; neither message nor remedy has the secret."""
    key = FOUND["github-token"][0]
    talk = Document("talk-7", "g", messages=(Message("user", ""), Message("user", f"a\nb\n{key} {key}\n")))
    with pytest.raises(InputError) as caught:
        Secrets(action="block").codex_cleaner(None).clean(talk)
    assert str(caught.value) == "document 'talk-7': messages[1], line 3: found github-token, and 1 more"
    assert key[:8] not in f"{caught.value!r} {caught.value.remedy}"


def test_what_is_allowed_must_be_the_whole_of_what_was_found():
    """An allow expression lets pass what it matches entirely, and nothing beside it."""
    key, other = "AKIA" + "QW3R7TY5UIOPLK8J", "AKIA" + "AAAAAAAAAAAAAAAA"
    text = f"{key} {other}"
    assert clean(text, allow=["AKIAA+"]) == f"<REDACTED:aws-access-key> {other}"
    assert clean(text, allow=["AKIA"]) == "<REDACTED:aws-access-key> <REDACTED:aws-access-key>"
    assert clean(text, allow=["AKIA.*"]) == text


def test_rules_are_chosen_by_name():
    """`disable` takes a rule away, `enable` adds one of those that guess; unknown names and both at once are errors."""
    key = FOUND["stripe-key"][0]
    assert clean(key, disable=["stripe-key"]) == key
    keyword = FOUND["keyword"][0]
    assert clean(keyword) == keyword
    assert clean(keyword, enable=["keyword"]) == 'password = "<REDACTED:keyword>"'
    with pytest.raises(
        ValueError, match=r"enable: expected names of rules, got 'strip-key' \(did you mean 'stripe-key'\?\)"
    ):
        Secrets(enable=["strip-key"])
    with pytest.raises(ValueError, match="stripe-key in both"):
        Secrets(enable=["stripe-key"], disable=["stripe-key"])
    with pytest.raises(ValueError, match=r"allow: '\(' is not a regular expression"):
        Secrets(allow=["("])


def test_every_detector_of_the_library_has_a_name():
    """The table of detectors is complete: each class of detect-secrets is in it, once."""
    import detect_secrets.plugins
    from detect_secrets.plugins.base import BasePlugin

    classes = {
        name
        for module in pkgutil.iter_modules(detect_secrets.plugins.__path__)
        for name, kind in vars(importlib.import_module(f"detect_secrets.plugins.{module.name}")).items()
        if inspect.isclass(kind) and issubclass(kind, BasePlugin) and not inspect.isabstract(kind)
    } - {"HighEntropyStringsPlugin"}
    assert {detector.type for detector in DETECTORS} == classes
    assert len({*NAMES}) == len(NAMES) == len(OWN) + len(DETECTORS)


def test_detectors_find_in_a_text_what_they_find_in_its_lines():
    """The library's detectors are meant for lines; given the whole text they find the same."""
    lines = [text for name, texts in FOUND.items() for text in texts if name != "private-key"]
    lines += [text for texts in LEFT.values() for text in texts if "\n" not in text]
    text = "\n".join(lines) + "\n"
    for detector in DETECTORS:
        by_line = {piece for line in lines for piece in found(detector.name, line)}
        assert {*found(detector.name, text)} == by_line, detector.name


def test_gates_only_save_time(monkeypatch):
    """Without its gate and its word length each expression finds the same in all of the examples."""
    from codex_clean.rules import Expression

    texts = [text for examples in (*FOUND.values(), *LEFT.values()) for text in examples]
    for rule in rules(frozenset(NAMES)):
        if isinstance(rule, Expression):
            open_rule = attrs.evolve(rule, gate=(), word=0)
            for text in texts:
                assert [*rule.find(Searched(text))] == [*open_rule.find(Searched(text))], (rule.name, text)


def test_the_readme_names_every_rule():
    """The package's page lists each rule by the name that manifests and counts use."""
    page = (Path(__file__).parents[1] / "README.md").read_text()
    assert [name for name in NAMES if f"`{name}`" not in page] == []


def test_the_settings_of_the_library_stay_as_they_are():
    """Neither making nor using the rules changes detect-secrets' global settings, or opens a connection."""
    import socket

    from detect_secrets.settings import get_settings

    before = json.dumps([get_settings().plugins, get_settings().filters])

    def refuse(*_arguments):
        raise AssertionError("a connection was opened")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        for texts in FOUND.values():
            for text in texts:
                assert clean(text, enable=list(OFF_BY_DEFAULT)) != text
    assert json.dumps([get_settings().plugins, get_settings().filters]) == before


@given(
    st.lists(
        st.sampled_from(["eyJ", "sk-", "AKIA", "://a:", "@", "-", ".", "\n", "a1B2", " ", "'", "x" * 50]),
        max_size=60,
    )
)
def test_redaction_keeps_the_lines(pieces):
    """Whatever a text is, redaction keeps its lines, is done after one pass, and changes nothing without a count."""
    text = "".join(pieces)
    step = Secrets().codex_cleaner(None)
    answer = step.clean(Document("a", "a", text))
    assert answer.document.text.count("\n") == text.count("\n")
    assert bool(answer.counts) == (answer.document.text != text)
    assert step.clean(answer.document).document == answer.document


def test_the_standard_library_has_no_secret():
    """In modules of the standard library that deal with keys, hashes and addresses nothing is taken for a secret."""
    step = Secrets().codex_cleaner(None)
    for name in (
        "ast",
        "base64",
        "ftplib",
        "hashlib",
        "hmac",
        "inspect",
        "netrc",
        "secrets",
        "ssl",
        "urllib.request",
    ):
        document = Document(name, "stdlib", inspect.getsource(importlib.import_module(name)))
        assert step.clean(document).counts == {}
