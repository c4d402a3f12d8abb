"""The personal data that `personal-data` looks for.

One rule: a shape is not enough where there is a check: a card's Luhn digit, an IBAN's remainder, an address that is
routed, a top-level domain that exists. Each rule has texts that it finds and texts that it leaves alone, in the tests.
"""

from __future__ import annotations

import ipaddress
import re

from codex_clean.rules import Expression, Rule
from codex_clean.words import words

_COUNTRIES = words(
    "ac ad ae af ag ai al am ao aq ar as at au aw ax az ba bb bd be bf bg bh bi bj bm bn bo br bs bt bw by bz ca cc cd "
    "cf cg ch ci ck cl cm cn co cr cu cv cw cx cy cz de dj dk dm do dz ec ee eg er es et eu fi fj fk fm fo fr ga gb gd "
    "ge gf gg gh gi gl gm gn gp gq gr gs gt gu gw gy hk hm hn hr ht hu id ie il im in io iq ir is it je jm jo jp ke kg "
    "kh ki km kn kp kr kw ky kz la lb lc li lk lr ls lt lu lv ly ma mc md me mg mh mk ml mm mn mo mp mq mr ms mt mu mv "
    "mw mx my mz na nc ne nf ng ni nl no np nr nu nz om pa pe pf pg ph pk pl pm pn pr ps pt pw py qa re ro rs ru rw sa "
    "sb sc sd se sg sh si sk sl sm sn so sr ss st su sv sx sy sz tc td tf tg th tj tk tl tm tn to tr tt tv tw tz ua ug "
    "uk us uy uz va vc ve vg vi vn vu wf ws ye yt za zm zw"
)
_GENERIC = words(
    "academy aero agency app art biz blog cat cloud club com company coop dev digital edu email engineer expert "
    "foundation gov group health info int jobs legal life live ltd me media mil mobi museum name net network news ngo "
    "online org page photo post pro science services shop site software solutions space store systems team tech tel "
    "today tools travel university web website wiki work works world xyz zone"
)
_RESERVED_DOMAIN = re.compile(
    r"(?:.*\.)?(?:example(?:\.[a-z]+)?|invalid|test|localhost|(?:my|your)[a-z]+\.[a-z]+)|domain\.[a-z]+",
    re.IGNORECASE,
)
_ROLE = frozenset({"git", "noreply", "no-reply", "donotreply", "user", "username", "name", "foo", "bar"})

_IBAN_LENGTHS = words(
    "AD:24 AE:23 AL:28 AT:20 AZ:28 BA:20 BE:16 BG:22 BH:22 BR:29 BY:28 CH:21 CR:22 CY:28 CZ:24 DE:22 DK:18 "
    "DO:28 EE:20 EG:29 ES:24 FI:18 FO:18 FR:27 GB:22 GE:22 GI:23 GL:18 GR:27 GT:28 HR:21 HU:28 IE:22 IL:23 "
    "IQ:23 IS:26 IT:27 JO:30 KW:30 KZ:20 LB:28 LC:32 LI:21 LT:20 LU:20 LV:21 LY:25 MC:27 MD:24 ME:22 MK:19 "
    "MR:27 MT:31 MU:30 NL:18 NO:15 PK:24 PL:28 PS:29 PT:25 QA:29 RO:24 RS:22 SA:24 SC:31 SE:24 SI:19 SK:24 "
    "SM:27 ST:25 SV:28 TL:23 TN:24 TR:26 UA:29 VA:22 VG:24 XK:20"
)
_CARD_PREFIX = re.compile(
    r"4(?=\d{15}$)|5[1-5](?=\d{14}$)|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)(?=\d{12}$)|3[47](?=\d{13}$)|"
    r"6(?:011|5\d\d|4[4-9]\d)(?=\d{12}$)|35(?:2[89]|[3-8]\d)(?=\d{12}$)|3(?:0[0-5]|[68]\d)(?=\d{11}$)"
)
_VERSION_BEFORE = re.compile(
    r"(?:version|ver|release|firmware|build|section|rfc|chapter|v|[=~<>!]=|[~^])[\s:=\"'(.-]*$",
    re.IGNORECASE,
)
_SMALL_OCTET = 20


def _is_address(match: re.Match[str]) -> bool:
    """Say whether an e-mail address may be somebody's: its domain can exist and its name is not a role's."""
    local, domain = match[1].lower(), match[2].lower()
    top = domain.rsplit(".", 1)[-1]
    return (
        (top in _COUNTRIES or top in _GENERIC)
        and local not in _ROLE
        and not _RESERVED_DOMAIN.fullmatch(domain)
        and match[2] in (domain, domain.upper(), domain.title(), domain.capitalize())
    )


def _is_phone(match: re.Match[str]) -> bool:
    """Say whether there are as many digits as a number has, not all alike, and it is none that fiction may use."""
    digits = re.sub(r"\D", "", match[0])
    return 10 <= len(digits) <= 15 and len(set(digits)) > 2 and not re.search(r"555[-. ]?01\d\d$", match[0])  # noqa: PLR2004


def _is_public_ipv4(match: re.Match[str]) -> bool:
    """Say whether an address is routed on the internet, and no version: three small numbers, or a word before it."""
    octets = list(map(int, match[0].split(".")))
    if max(octets) > 255 or max(octets[:3]) < _SMALL_OCTET:  # noqa: PLR2004
        return False
    address = ipaddress.IPv4Address(bytes(octets))
    before = match.string[max(0, match.start() - 24) : match.start()]
    return address.is_global and not address.is_multicast and not _VERSION_BEFORE.search(before)


def _is_public_ipv6(match: re.Match[str]) -> bool:
    """Say whether an address is routed on the internet; with fewer than three groups it is rather a slice."""
    if len(match[0].replace("::", ":").split(":")) < 3:  # noqa: PLR2004
        return False
    try:
        return ipaddress.IPv6Address(match[0]).is_global
    except ValueError:
        return False


def _is_card(match: re.Match[str]) -> bool:
    """Say whether the digits have an issuer's prefix and length, and a right check digit (Luhn, ISO/IEC 7812-1)."""
    digits = re.sub(r"\D", "", match[0])
    if not _CARD_PREFIX.match(digits):
        return False
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return sum(number - 9 * (number > 9) for number in doubled) % 10 == 0  # noqa: PLR2004


def _is_iban(match: re.Match[str]) -> bool:
    """Say whether the length is the country's and the remainder is 1 (ISO 13616, mod 97)."""
    iban = match[0].replace(" ", "")
    if f"{iban[:2]}:{len(iban)}" not in _IBAN_LENGTHS:
        return False
    return int("".join(str(int(sign, 36)) for sign in iban[4:] + iban[:4])) % 97 == 1


# What must not stand before a match is looked at after its first character: so the search for that one is quick.
_PHONES = (
    (
        r"\+(?<![\w.+)\]/-]\+)[1-9]\d{0,2}(?:[ .-]?\(0?\d{0,4}\)[ .-]?\d{1,8})?[ .-]\d{1,8}(?:[ .-]\d{2,8}){0,4}"
        r"(?![\w-]|\.\d)"
    ),
    r"\+(?<![\w.+)\]=-]\+)[1-9]\d{10,13}(?!\w|\.\d)",
    r"\((?<![\w.+)\]/=-]\()[2-9]\d\d\) ?[2-9]\d\d-\d{4}(?![\w-]|\.\d)",
    r"[2-9](?<![\w.+)\]/=-][2-9])\d\d([-.])[2-9]\d\d\1\d{4}(?![\w-]|\.\d)",
    r"1-(?<![\w.+)\]/=-]1-)[2-9]\d\d-[2-9]\d\d-\d{4}(?![\w-]|\.\d)",
)

RULES: tuple[Rule, ...] = (
    Expression(
        "email",
        r"(?<![\w.+%/-])([A-Za-z0-9][A-Za-z0-9._%+-]{0,63})@((?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}"
        r"[A-Za-z]{2,24})(?![\w(\[@-]|\.\w)",
        gate=["@"],
        accept=_is_address,
    ),
    Expression("phone", [re.compile(pattern) for pattern in _PHONES], accept=_is_phone),
    Expression(
        "us-social-security-number",
        r"[0-8](?<![\w.-][0-8])\d\d-(?<!000-)(?<!666-)(?!00)\d{2}-(?!0000)\d{4}(?![\w-]|\.\d)",
        gate=["-"],
    ),
    Expression(
        "credit-card",
        r"[2-6](?<![\w.+/-][2-6])\d(?:\d\d[ -]?\d{4}[ -]?\d{4}[ -]?\d{4}|\d\d[ -]?\d{6}[ -]?\d{4,5})(?![\w-]|\.\d)",
        accept=_is_card,
    ),
    Expression(
        "iban",
        r"[A-Z](?<![A-Za-z0-9][A-Z])[A-Z]\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])",
        accept=_is_iban,
    ),
    Expression(
        "ipv4",
        r"[1-9](?<![\w.-][1-9])\d{0,2}\.\d{1,3}\.\d{1,3}\.\d{1,3}(?![\w-]|\.\d)",
        gate=["."],
        accept=_is_public_ipv4,
    ),
    Expression(
        "ipv6",
        r"[23](?<![\w:.][23])[0-9A-Fa-f]{3}:(?:[0-9A-Fa-f]{0,4}:){1,6}[0-9A-Fa-f]{1,4}(?![\w:]|\.\d)",
        gate=[":"],
        accept=_is_public_ipv6,
    ),
)
NAMES = tuple(rule.name for rule in RULES)
