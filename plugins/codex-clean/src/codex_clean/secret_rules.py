"""The secrets that `secrets` looks for: our own rules, and detect-secrets' detectors as rules.

One rule: each rule has a text that it finds and one that it leaves alone, in the tests. Nothing is verified over the
network, and the library's settings, which are global, are neither read nor changed: its expressions are used alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from attrs import frozen

from codex_clean.rules import Expression, Finding, Rule, Searched
from codex_clean.words import words

_KEY_BEGIN = re.compile(r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----")
_KEY_END = re.compile(r"-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----")
_KEY_CHARS = 1 << 15  # of a block without an end: no key is longer
_KEY_TEXT = re.compile(r"\\[a-z]|([A-Za-z0-9+/=]{4,})")  # an escaped newline is no part of a key
_KEY_LINE = re.compile(r"[A-Za-z0-9+/=]{32,}")

_DUMMY_PASSWORD = re.compile(
    r"\W*|[*x.]+|(?:my_?|your_?)?(?:pass(?:word|wd|phrase)?|pwd?|pw|secret|token|user|changeme|hunter2|foo|bar)\d*",
    re.IGNORECASE,
)


@frozen
class PrivateKeys:
    """PEM and PGP private keys: what stands between the markers, line by line; the markers alone are no secret."""

    name: str = "private-key"

    def find(self, searched: Searched) -> Iterator[Finding]:
        """Give the key of each block, also of one that has no end."""
        text = searched.text
        for begin in _KEY_BEGIN.finditer(text):
            end = _KEY_END.search(text, begin.end(), begin.end() + _KEY_CHARS)
            last = end.start() if end else _without_end(text, begin.end())
            if not _KEY_LINE.search(text, begin.end(), last):
                continue
            spans = [match.span(1) for match in _KEY_TEXT.finditer(text, begin.end(), last) if match[1]]
            yield Finding(self.name, tuple(spans))


def _without_end(text: str, start: int) -> int:
    """Return where the lines end that look like a key, from the marker on."""
    for match in re.compile(r".*\n?").finditer(text, start, start + _KEY_CHARS):
        if match[0].strip() and match.start() > start and not _KEY_LINE.search(match[0]):
            return match.start()
    return min(len(text), start + _KEY_CHARS)


def _is_password(match: re.Match[str]) -> bool:
    return not _DUMMY_PASSWORD.fullmatch(match[1])


def _mixed(match: re.Match[str]) -> bool:
    """Say whether there is a digit, a small and a capital letter: an identifier seldom has all of them."""
    found = match[1] if match.re.groups and match[1] else match[0]
    return any(map(str.isdigit, found)) and any(map(str.islower, found)) and any(map(str.isupper, found))


def _has_digit(match: re.Match[str]) -> bool:
    return any(map(str.isdigit, match[0]))


OWN: tuple[Rule, ...] = (
    PrivateKeys(),
    Expression("anthropic-api-key", r"\bsk-ant-[a-z]+[0-9]{2}-[A-Za-z0-9_-]{40,}", gate=["sk-ant-"]),
    Expression(
        "aws-secret-key",
        r"(?i)aws_?(?:secret_?)?(?:access_?)?key['\"]?\s{0,9}[:=]\s{0,9}['\"]?([A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])",
        gate=["aws"],
        group=1,
        accept=_mixed,
    ),
    Expression("databricks-token", r"\bdapi[a-f0-9]{32}\b", gate=["dapi"]),
    Expression("digitalocean-token", r"\bdo[opr]_v1_[a-f0-9]{64}\b", gate=["_v1_"]),
    Expression("docker-token", r"\bdckr_(?:pat|oat)_[A-Za-z0-9_-]{27,}", gate=["dckr_"]),
    Expression("github-fine-grained-token", r"\bgithub_pat_[A-Za-z0-9_]{50,}", gate=["github_pat_"]),
    Expression("google-api-key", r"\bAIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])", gate=["AIza"]),
    Expression("google-oauth-secret", r"\bGOCSPX-[A-Za-z0-9_-]{28}(?![A-Za-z0-9_-])", gate=["GOCSPX-"]),
    Expression(
        "hugging-face-token", r"\b(?:hf_[A-Za-z0-9]{34}|api_org_[A-Za-z0-9]{34})\b", gate=["hf_", "api_org_"]
    ),
    Expression("npm-access-token", r"\bnpm_[A-Za-z0-9]{36}\b", gate=["npm_"]),
    Expression(
        "openai-api-key",
        r"\bsk-(?:proj|svcacct|admin|None)-[A-Za-z0-9_-]{40,}",
        gate=["sk-proj-", "sk-svcacct-", "sk-admin-", "sk-None-"],
    ),
    Expression("shopify-token", r"\bshp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}\b", gate=["shp"]),
    Expression("slack-app-token", r"\bxapp-\d-[A-Z0-9]{8,}-\d{8,}-[a-f0-9]{32,}", gate=["xapp-"]),
    Expression(
        "slack-config-token", r"\bxox[eb]\.?(?:xox[bp]-)?\d?-[A-Za-z0-9-]{24,}", gate=["xoxe", "xoxb"]
    ),
    Expression(
        "url-password",
        r"(?<=[A-Za-z0-9])://[^\s:/?#@\"'<>{}\[\]()$%`\\]{0,64}:([^\s/?#@\"'<>{}\[\]()$%`\\:]{3,128})"
        r"@[A-Za-z0-9\[]",
        gate=["://"],
        group=1,
        accept=_is_password,
    ),
    Expression("vault-token", r"\bhv[sbr]\.[A-Za-z0-9_-]{24,}", gate=["hvs.", "hvb.", "hvr."]),
)
"""Secrets that detect-secrets does not know, or knows too little of."""


@frozen
class Detector:
    """How a detector of detect-secrets is used: its class in its module, and what an Expression takes.

    `default` False: it is used only where it is asked for.
    """

    name: str
    module: str
    type: str
    gate: tuple[str, ...] = ()
    word: int = 0
    group: int = 0
    accept: Callable[[re.Match[str]], bool] | None = None
    default: bool = True


_GITHUB = ("ghp_", "gho_", "ghu_", "ghs_", "ghr_")
_GITLAB = tuple(
    sorted(words("glpat- gldt- glft- glsoat- glrt- GR1348941 glcbt- glimt- glptt- glagent- gloas-"))
)
_ARTIFACTORY = ("AKC", *(f"AP{digit}" for digit in "0123456789ABCDEF"))
_CLOUDANT = tuple(
    f"{prefix}{dash}{api}{word}"
    for prefix in ("cl", "clou", "cloudant")
    for dash in ("", "_", "-")
    for api in ("", "api")
    for word in ("key", "pw", "pass", "token")
)
_AWS = ("a3t", "abia", "acca", "akia", "asia", "aws")

DETECTORS = (
    Detector(
        "artifactory-credentials", "artifactory", "ArtifactoryDetector", _ARTIFACTORY, accept=_has_digit
    ),
    Detector("aws-access-key", "aws", "AWSKeyDetector", _AWS, group=1),
    Detector("azure-storage-key", "azure_storage_key", "AzureStorageKeyDetector", ("AccountKey=",)),
    Detector("basic-auth", "basic_auth", "BasicAuthDetector", ("://",), group=1, default=False),
    Detector(
        "cloudant-credentials", "cloudant", "CloudantDetector", (*_CLOUDANT, "cloudant.com"), word=24, group=1
    ),
    Detector("discord-bot-token", "discord", "DiscordBotTokenDetector", word=24),
    Detector("github-token", "github_token", "GitHubTokenDetector", _GITHUB),
    Detector("gitlab-token", "gitlab_token", "GitLabTokenDetector", _GITLAB),
    Detector("ibm-cloud-iam-key", "ibm_cloud_iam", "IbmCloudIamDetector", word=44, group=1, accept=_mixed),
    Detector("ibm-cos-hmac", "ibm_cos_hmac", "IbmCosHmacDetector", ("secret",), word=48, group=1),
    Detector("json-web-token", "jwt", "JwtTokenDetector", ("eyJ",)),
    Detector("mailchimp-key", "mailchimp", "MailchimpDetector", ("-us",), word=36),
    Detector("npm-token", "npm", "NpmDetector", (":_authToken=",), group=1),
    Detector("openai-token", "openai", "OpenAIDetector", ("T3BlbkFJ",)),
    Detector("private-key-marker", "private_key", "PrivateKeyDetector", default=False),
    Detector("public-ip", "ip_public", "IPPublicDetector", default=False),
    Detector("pypi-token", "pypi_token", "PypiTokenDetector", ("pypi-AgE",)),
    Detector("sendgrid-key", "sendgrid", "SendGridDetector", ("SG.",)),
    Detector("slack-token", "slack", "SlackDetector", ("xox", "hooks.slack.com")),
    Detector(
        "softlayer-credentials", "softlayer", "SoftlayerDetector", ("sl", "softlayer"), word=64, group=1
    ),
    Detector("square-oauth-secret", "square_oauth", "SquareOAuthDetector", ("sq0csp-",)),
    Detector("stripe-key", "stripe", "StripeDetector", ("k_live_",)),
    Detector("telegram-bot-token", "telegram_token", "TelegramBotTokenDetector", word=35),
    Detector("twilio-key", "twilio", "TwilioKeyDetector", ("AC", "SK"), word=34),
    Detector("base64-high-entropy", "high_entropy_strings", "Base64HighEntropyString", default=False),
    Detector("hex-high-entropy", "high_entropy_strings", "HexHighEntropyString", default=False),
    Detector("keyword", "keyword", "KeywordDetector", default=False),
)
"""The detectors of detect-secrets 1.5."""

NAMES = tuple(rule.name for rule in OWN) + tuple(detector.name for detector in DETECTORS)
OFF_BY_DEFAULT = tuple(detector.name for detector in DETECTORS if not detector.default)


def rules(names: frozenset[str]) -> list[Rule]:
    """Return the rules with these names; those of detect-secrets are imported now."""
    own = [rule for rule in OWN if rule.name in names]
    return own + [_library_rule(detector) for detector in DETECTORS if detector.name in names]


def _library_rule(detector: Detector) -> Rule:
    module = import_module(f"detect_secrets.plugins.{detector.module}")
    instance = getattr(module, detector.type)()
    if detector.name == "keyword":
        return Keyword(detector.name, module.QUOTES_REQUIRED_DENYLIST_REGEX_TO_GROUP)
    if "entropy" in detector.name:
        return Entropy(detector.name, instance)
    accept = _is_web_token(instance) if detector.name == "json-web-token" else detector.accept
    return Expression(
        detector.name, tuple(instance.denylist), detector.gate, detector.word, detector.group, accept
    )


def _is_web_token(instance: Any) -> Callable[[re.Match[str]], bool]:
    return lambda match: bool(instance.is_formally_valid(match[0]))


@frozen(eq=False)
class Entropy:
    """Quoted strings that look random, by one of detect-secrets' two detectors."""

    name: str
    detector: Any

    def find(self, searched: Searched) -> Iterator[Finding]:
        """Give the strings whose entropy is above the detector's limit and that the library's heuristics let pass."""
        for start, match in searched.matches(self.detector.regex):
            limit, secret = self.detector.entropy_limit, match[2]
            if (
                "\n" not in secret
                and self.detector.calculate_shannon_entropy(secret) > limit
                and _plausible(secret)
            ):
                yield Finding(self.name, ((start + match.start(2), start + match.end(2)),))


@frozen(eq=False)
class Keyword:
    """Quoted strings beside a word such as `password`, by detect-secrets' expressions for code."""

    name: str
    groups: Any

    def find(self, searched: Searched) -> Iterator[Finding]:
        """Give the strings that the library's heuristics let pass, by lines, as its expressions are meant."""
        from detect_secrets.filters.heuristic import is_indirect_reference

        for line in re.compile(r"[^\n]{1,1000}").finditer(searched.text):
            for pattern, group in self.groups.items():
                match = pattern.search(line[0])
                if match and _plausible(match[group]) and not is_indirect_reference(line[0]):
                    yield Finding(
                        self.name, ((line.start() + match.start(group), line.start() + match.end(group)),)
                    )


def _plausible(secret: str) -> bool:
    """Say whether the library's heuristics take a string for a secret."""
    from detect_secrets.filters import heuristic

    return not (
        heuristic.is_sequential_string(secret)
        or heuristic.is_potential_uuid(secret)
        or heuristic.is_templated_secret(secret)
        or heuristic.is_prefixed_with_dollar_sign(secret)
        or heuristic.is_not_alphanumeric_string(secret)
    )
