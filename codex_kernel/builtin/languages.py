"""The programming language of a file, by its name.

One rule: a language is called as GitHub's linguist calls it, in lower case; a suffix that several languages share is
given to the one that has most of the public files, and the user's own table goes over this one.
"""

from __future__ import annotations

from collections.abc import Mapping

_SUFFIXES = {
    "ada": "adb ads ada",
    "agda": "agda",
    "apex": "apxc apxt",
    "apl": "apl",
    "applescript": "applescript scpt",
    "asciidoc": "adoc asciidoc",
    "assembly": "asm s nasm",
    "astro": "astro",
    "awk": "awk gawk",
    "batchfile": "bat cmd",
    "bibtex": "bib",
    "bicep": "bicep",
    "c": "c h",
    "c#": "cs csx",
    "c++": "cpp cc cxx c++ hpp hh hxx h++ ipp tpp inl",
    "clojure": "clj cljs cljc",
    "cmake": "cmake",
    "cobol": "cob cbl cobol cpy",
    "coffeescript": "coffee",
    "common lisp": "lisp lsp asd",
    "crystal": "cr",
    "css": "css",
    "csv": "csv",
    "cuda": "cu cuh",
    "cython": "pyx pxd pxi",
    "d": "d",
    "dart": "dart",
    "diff": "diff patch",
    "dockerfile": "dockerfile containerfile",
    "elixir": "ex exs",
    "elm": "elm",
    "emacs lisp": "el",
    "erlang": "erl hrl",
    "f#": "fs fsi fsx",
    "fish": "fish",
    "fortran": "f for f77",
    "fortran free form": "f90 f95 f03 f08",
    "gdscript": "gd",
    "gherkin": "feature",
    "gleam": "gleam",
    "glsl": "glsl vert frag geom comp",
    "gnuplot": "gp gnu plt",
    "go": "go",
    "graphql": "graphql gql",
    "groovy": "groovy gradle gvy",
    "hack": "hack",
    "handlebars": "handlebars hbs",
    "haskell": "hs lhs hsc",
    "haxe": "hx",
    "hcl": "hcl tf tfvars",
    "hlsl": "hlsl fx",
    "html": "html htm xhtml",
    "idris": "idr",
    "ini": "ini cfg",
    "janet": "janet",
    "java": "java",
    "java properties": "properties",
    "javascript": "js mjs cjs jsx",
    "jinja": "jinja jinja2 j2",
    "json": "json jsonl ndjson geojson webmanifest",
    "jsonnet": "jsonnet libsonnet",
    "julia": "jl",
    "jupyter notebook": "ipynb",
    "kotlin": "kt kts",
    "lean": "lean",
    "less": "less",
    "llvm": "ll",
    "lua": "lua",
    "makefile": "mk mak make",
    "markdown": "md markdown",
    "matlab": "matlab",
    "mdx": "mdx",
    "mermaid": "mmd mermaid",
    "metal": "metal",
    "mlir": "mlir",
    "mojo": "mojo",
    "nim": "nim nims nimble",
    "nix": "nix",
    "objective-c": "m",
    "objective-c++": "mm",
    "ocaml": "ml mli",
    "odin": "odin",
    "opencl": "cl opencl",
    "openscad": "scad",
    "org": "org",
    "pascal": "pas dpr lpr",
    "perl": "pl pm",
    "php": "php phtml",
    "plpgsql": "plpgsql",
    "postscript": "ps eps",
    "powershell": "ps1 psm1 psd1",
    "prolog": "pro prolog",
    "protocol buffer": "proto",
    "pug": "pug jade",
    "puppet": "pp",
    "purescript": "purs",
    "python": "py pyi pyw",
    "qml": "qml",
    "r": "r",
    "racket": "rkt",
    "raku": "raku rakumod p6",
    "reason": "re rei",
    "restructuredtext": "rst",
    "rmarkdown": "rmd",
    "ruby": "rb rake gemspec ru",
    "rust": "rs",
    "sas": "sas",
    "sass": "sass",
    "scala": "scala sbt sc",
    "scheme": "scm ss sld",
    "scss": "scss",
    "shell": "sh bash zsh ksh bats",
    "smalltalk": "st",
    "solidity": "sol",
    "sql": "sql ddl dml",
    "standard ml": "sml sig",
    "starlark": "bzl star",
    "stata": "do ado",
    "stylus": "styl",
    "svelte": "svelte",
    "svg": "svg",
    "swift": "swift",
    "systemverilog": "sv svh",
    "tcl": "tcl",
    "tex": "tex sty cls ltx",
    "text": "txt text",
    "thrift": "thrift",
    "toml": "toml",
    "tsv": "tsv",
    "tsx": "tsx",
    "typescript": "ts mts cts",
    "typst": "typ",
    "v": "vsh",
    "vala": "vala vapi",
    "verilog": "v vh",
    "vhdl": "vhd vhdl",
    "vim script": "vim",
    "visual basic .net": "vb",
    "vue": "vue",
    "webassembly": "wat wast",
    "wgsl": "wgsl",
    "xml": "xml xsd xsl xslt plist",
    "yaml": "yaml yml",
    "zig": "zig",
}
_NAMES = {
    "cmake": "CMakeLists.txt",
    "dockerfile": "Dockerfile Containerfile",
    "go module": "go.mod",
    "go checksums": "go.sum",
    "groovy": "Jenkinsfile",
    "makefile": "Makefile makefile GNUmakefile Kbuild",
    "meson": "meson.build meson_options.txt",
    "ruby": "Gemfile Rakefile Podfile Vagrantfile Brewfile",
    "shell": ".bashrc .bash_profile .profile .zshrc PKGBUILD",
    "starlark": "BUILD BUILD.bazel WORKSPACE Tiltfile",
    "vim script": ".vimrc",
}

BY_SUFFIX = {f".{suffix}": name for name, suffixes in _SUFFIXES.items() for suffix in suffixes.split()}
BY_NAME = {file: name for name, files in _NAMES.items() for file in files.split()}
LANGUAGES = frozenset(BY_SUFFIX.values()) | frozenset(BY_NAME.values())


def language_of(name: str, more: Mapping[str, str]) -> str:
    """Return the language of a file by the last part of its path, or an empty string.

    `more` maps further suffixes, such as `.m`, to languages. The longest suffix of a name counts: `.d.ts` before `.ts`.
    """
    file = name.rpartition("/")[2]
    if file in BY_NAME:
        return BY_NAME[file]
    lower = file.lower()
    dot = lower.find(".", 1)
    while dot >= 0:
        suffix = lower[dot:]
        if suffix in more:
            return more[suffix]
        if suffix in BY_SUFFIX:
            return BY_SUFFIX[suffix]
        dot = lower.find(".", dot + 1)
    return ""
