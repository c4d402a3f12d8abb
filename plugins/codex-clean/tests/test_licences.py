"""The step `licence-headers`: which licence is found, what is taken away, and which files may stay."""

from __future__ import annotations

import ast
import inspect
from xml.etree import ElementPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_clean.licence_texts import canonical, licences_in, permitted
from codex_clean.licences import LicenceHeaders
from codex_kernel import Document

APACHE = """\
Licensed under the Apache License, Version 2.0 (the "License");
you may not use this file except in compliance with the License.
You may obtain a copy of the License at

    http://www.apache.org/licenses/LICENSE-2.0

Unless required by applicable law or agreed to in writing, software
distributed under the License is distributed on an "AS IS" BASIS,
WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
"""
TEXTS = {
    "Apache-2.0": APACHE,
    "MIT": "Permission is hereby granted, free of charge, to any person obtaining\na copy of this software",
    "BSD-2-Clause": "Redistribution and use in source and binary forms, with or without\nmodification, are permitted",
    "BSD-3-Clause": "Redistribution and use in source and binary forms\n… may be used to endorse or promote products",
    "ISC": "Permission to use, copy, modify, and/or distribute this software\nprovided that the above copyright notice",
    "0BSD": "Permission to use, copy, modify, and/or distribute this software for any purpose",
    "GPL-3.0-or-later": "GNU General Public License … either version 3 of the License, or any later version",
    "GPL-2.0-only": "under the terms of the GNU General Public License version 2 as published",
    "LGPL-2.1-or-later": "GNU Lesser General Public License … version 2.1 of the License, or any later version",
    "AGPL-3.0-or-later": "GNU Affero General Public License … version 3, or (at your option) any later version",
    "MPL-2.0": "subject to the terms of the Mozilla Public\nLicense, v. 2.0.",
    "BSL-1.0": "Distributed under the Boost Software License, Version 1.0.",
    "Unlicense": "This is free and unencumbered software released into the public domain.",
    "PSF-2.0": "Licensed to PSF under a Contributor Agreement.",
    "LicenseRef-proprietary": "Unauthorized copying of this file, via any medium, is strictly prohibited.",
}
COMMENTS = {
    ".py": lambda text: "".join(f"# {line}\n" for line in text.splitlines()),
    ".js": lambda text: "".join(f"// {line}\n" for line in text.splitlines()),
    ".c": lambda text: "/*\n" + "".join(f" * {line}\n" for line in text.splitlines()) + " */\n",
    ".java": lambda text: "/** " + text.replace("\n", "\n ") + " */\n",
    ".lua": lambda text: "".join(f"-- {line}\n" for line in text.splitlines()),
}


def clean(text: str, *, name: str = "a.py", **options):
    """Clean one source file."""
    return LicenceHeaders(**options).codex_cleaner(None).clean(Document(name, name, text))


@pytest.mark.parametrize("suffix", COMMENTS)
@pytest.mark.parametrize("licence", TEXTS)
def test_known_headers_are_named_and_taken_away(licence, suffix):
    """The usual header of a licence is known in any kind of comment, counted by its SPDX name, and taken away."""
    code = "\nx = 1  // code\n"
    answer = clean(COMMENTS[suffix](TEXTS[licence]) + code, name=f"a{suffix}")
    assert answer.counts == {f"licence {licence}": 1, "licence header": 1}
    assert answer.document.text == "x = 1  // code\n"


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("# SPDX-License-Identifier: MIT", "licence MIT"),
        ("// SPDX-License-Identifier: (mit OR apache-2.0)", "licence (MIT OR Apache-2.0)"),
        ("/* SPDX-License-Identifier: GPL-2.0-only */", "licence GPL-2.0-only"),
        ("# SPDX-License-Identifier: No-Such-Licence", "licence LicenseRef-unknown"),
        ("# SPDX-License-Identifier: LicenseRef-Acme-17", "licence other"),
        ("# Copyright 2020 Somebody. All rights reserved.", "licence not named"),
        ("# (c) 2020 Somebody", "licence not named"),
    ],
)
def test_identifiers_are_read_as_spdx_writes_them(line, name):
    """An SPDX expression is counted in SPDX's own spelling; unusual ones share a name; a copyright alone names none."""
    answer = clean(f"{line}\nint x;\n", name="a.c")
    assert answer.counts == {name: 1, "licence header": 1}
    assert answer.document.text == "int x;\n"


def test_shebang_and_encoding_stay_and_so_does_what_is_not_legal():
    """Lines that mean something to a machine stay, and so do other comments, before and after the header."""
    text = (
        "#!/usr/bin/env python\n# -*- coding: latin-1 -*-\n# Copyright 2020 Somebody\n#\n"
        + COMMENTS[".py"](APACHE)
        + "\n\n# Reads the thermometer.\n# Twice.\n\nimport os\n# Copyright of a comment in the code\n"
    )
    assert clean(text).document.text == (
        "#!/usr/bin/env python\n# -*- coding: latin-1 -*-\n# Reads the thermometer.\n# Twice.\n\nimport os\n"
        "# Copyright of a comment in the code\n"
    )


def test_paragraphs_of_a_comment_that_are_not_legal_stay():
    """In one comment the description stays and the paragraphs about rights go, with all between them."""
    granted = TEXTS["MIT"].replace("\n", " ")
    text = f"# The thermometer.\n#\n# Copyright 2020 Somebody\n#\n# {granted}\n#\n# Usage: run it\nx = 1\n"
    assert clean(text).document.text == "# The thermometer.\n#\n#\n# Usage: run it\nx = 1\n"


@pytest.mark.parametrize(
    "text",
    [
        '"""Copyright 2020, in a docstring."""\nx = 1\n',
        "x = 1  # Copyright 2020 Somebody\n",
        "# Reads the thermometer.\nx = 1\n",
        "#include <licence.h>\nint x;\n",
        "/* Copyright */ int x;\n",
        "/* Copyright 2020, never ended\nint x;\n",
        "",
        "\n\n",
    ],
)
def test_what_is_no_header_is_left_alone(text):
    """Docstrings, comments beside or between code, and comments about other things are no headers."""
    document = Document("a.c", "a", text)
    assert LicenceHeaders().codex_cleaner(None).clean(document).document is document


@pytest.mark.parametrize("name", ["notes.md", "LICENSE", "rows.jsonl:4"])
def test_only_source_files_are_looked_at(name):
    """A text that is no source file by its suffix keeps its copyright; a language makes it one."""
    text = "# Copyright 2020 Somebody\ntext\n"
    assert clean(text, name=name).counts == {}
    step = LicenceHeaders().codex_cleaner(None)
    assert step.clean(Document(name, "a", text, language="python")).document.text == "text\n"
    assert step.clean(Document(name, "a", text, language="markdown")).counts == {}


def test_counting_alone_changes_nothing():
    """With `strip: false` the header stays, and is counted."""
    text = "# SPDX-License-Identifier: MIT\nx = 1\n"
    answer = clean(text, strip=False)
    assert (answer.document.text, answer.counts) == (text, {"licence MIT": 1})


@pytest.mark.parametrize(
    ("expression", "options", "stays"),
    [
        ("GPL-2.0-only", {"deny": ["GPL-2.0-only"]}, False),
        ("GPL-2.0-only OR MIT", {"deny": ["GPL-2.0-only"]}, True),
        ("GPL-2.0-only AND MIT", {"deny": ["gpl-2.0-ONLY"]}, False),
        ("GPL-2.0-only WITH Classpath-exception-2.0", {"deny": ["GPL-2.0-only"]}, False),
        ("MIT", {"allow": ["MIT", "Apache-2.0"]}, True),
        ("MIT AND ISC", {"allow": ["MIT", "Apache-2.0"]}, False),
        ("ISC OR (MIT AND Apache-2.0)", {"allow": ["MIT", "Apache-2.0"]}, True),
        ("ISC", {"allow": ["MIT"]}, False),
        ("MIT", {"allow": ["MIT"], "deny": ["MIT"]}, False),
    ],
)
def test_files_are_dropped_by_their_licence(expression, options, stays):
    """A file stays where its expression can be met with licences that may: OR needs one, AND needs both."""
    answer = clean(f"# SPDX-License-Identifier: {expression}\nx = 1\n", **options)
    assert (answer.document is not None) == stays
    assert ("licence not allowed" in answer.counts) != stays


def test_a_file_that_names_no_licence_is_kept():
    """Neither list says anything of a file without a licence, or with a copyright line alone."""
    assert clean("x = 1\n", allow=["MIT"]).document.text == "x = 1\n"
    assert clean("# Copyright 2020 Somebody\nx = 1\n", allow=["MIT"]).document.text == "x = 1\n"


def test_lists_hold_spdx_identifiers():
    """A licence in the lists that SPDX does not know is an error that says what is expected."""
    with pytest.raises(ValueError, match=r"allow: expected SPDX identifiers, such as MIT.*got 'Apache 2'"):
        LicenceHeaders(allow=["Apache 2"])
    with pytest.raises(ValueError, match="deny: "):
        LicenceHeaders(deny=["GPL"])


def test_line_ends_and_a_byte_order_mark_stay():
    """A file with CRLF keeps it; a byte order mark does not hide the header."""
    assert clean("#!/bin/sh\r\n# Copyright 2020 X\r\n\r\nx\r\n").document.text == "#!/bin/sh\r\nx\r\n"
    assert clean("\ufeff# Copyright 2020 X\nx = 1\n").document.text == "x = 1\n"


def test_real_modules_lose_their_header_and_no_code():
    """Of a module of the standard library the syntax tree is the same without its header."""
    text = inspect.getsource(ElementPath)
    answer = clean(text)
    assert "licence HPND" in answer.counts
    assert len(answer.document.text) < len(text) - 500
    assert ast.dump(ast.parse(answer.document.text)) == ast.dump(ast.parse(text))


@given(
    st.recursive(
        st.sampled_from(["MIT", "ISC", "Zlib"]),
        lambda inner: st.tuples(inner, st.sampled_from(["OR", "AND"]), inner),
    )
)
def test_expressions_mean_what_python_would_mean(tree):
    """Choosing by an expression is boolean logic, whatever its depth."""

    def written(node) -> str:
        return node if isinstance(node, str) else f"({written(node[0])} {node[1]} {written(node[2])})"

    for may in ({"MIT"}, {"ISC", "Zlib"}, set()):
        python = written(tree).replace("OR", "or").replace("AND", "and")
        expected = eval(python, {name: name in may for name in ("MIT", "ISC", "Zlib")})  # noqa: S307 - our own text
        assert permitted(written(tree), may.__contains__) == expected


@given(st.text())
def test_any_text_may_follow_an_identifier(text):
    """Whatever a comment says, reading it ends, and gives expressions that SPDX knows."""
    for expression in licences_in(f"SPDX-License-Identifier: {text}"):
        assert canonical(expression) == expression
        permitted(expression, lambda _: True)
