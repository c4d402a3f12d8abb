"""The step `personal-data`: each rule with texts that it finds and texts that it leaves alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_clean.personal_data import PersonalData
from codex_clean.personal_rules import NAMES, RULES
from codex_clean.rules import Searched
from codex_kernel import Document, InputError

FOUND = {
    "email": [
        "jane.doe@company.co.uk",
        "j@x.io",
        "JANE@COMPANY.COM",
        "first+tag@sub.domain.org",
        "a.b-c_d@uni-x.edu",
    ],
    "phone": [
        "+1 415 555 2671",
        "+14155552671",
        "(415) 555-2671",
        "415-555-2671",
        "415.555.2671",
        "1-800-273-8255",
        "+49 30 901820",
        "+44 (0)20 7946 0958",
        "+33 1 42 68 53 00",
    ],
    "us-social-security-number": ["123-45-6789", "899-99-9999"],
    "credit-card": [
        "4111 1111 1111 1111",
        "4111111111111111",
        "5555-5555-5555-4444",
        "378282246310005",
        "3782 822463 10005",
        "6011111111111117",
        "2223003122003222",
        "30569309025904",
        "3530111333300000",
    ],
    "iban": ["GB82 WEST 1234 5698 7654 32", "DE89370400440532013000", "NO9386011117947"],
    "ipv4": ["93.184.216.34", "151.101.1.69"],
    "ipv6": ["2001:4860:4860::8888", "2a00:1450:4001:081b:0000:0000:0000:200e"],
}
LEFT = {
    "email": [
        "me@example.com",
        "x@sub.example.org",
        "root@localhost",
        "git@github.com:owner/repo.git",
        "noreply@company.com",
        "matrix@other.T",
        "left@right.dot(x)",
        "@decorator.setter",
        "user@host",
        "a@@b.com",
        "https://host/@name.com",
    ],
    "phone": [
        "555-0123",
        "212-555-0123",
        "2020-12-31 12:00",
        "x + 1415555267",
        "415-555-26711",
        "3.14159.2653",
        "0-415-555-2671-99",
        "range(+1, 200, 300)",
        "123-456-7890",
        "1000-2000",
        "+000 000 000 000",
        "v1.415.555.2671",
    ],
    "us-social-security-number": [
        "000-12-3456",
        "666-12-3456",
        "900-12-3456",
        "123-00-4567",
        "123-45-0000",
        "2020-12-1234",
        "123-45-67890",
        "1-123-45-6789",
        "className",
    ],
    "credit-card": [
        "4111111111111112",
        "1234567812345678",
        "41111111111111111",
        "0x4111111111111111",
        "4111111111111111.5",
        "id-4111111111111111",
        "9999999999999995",
    ],
    "iban": [
        "GB82 WEST 1234 5698 7654 33",
        "DE8937040044053201300",
        "XX89370400440532013000",
        "AB12CD34EF56GH78",
    ],
    "ipv4": [
        "127.0.0.1",
        "0.0.0.0",  # noqa: S104 - nothing is bound to it
        "10.1.2.3",
        "192.168.1.50",
        "172.16.30.99",
        "192.0.2.77",
        "255.255.255.255",
        "224.0.0.251",
        "1.2.3.4",
        "8.2.4.44",
        "version 93.184.216.34",
        "torch==93.184.216.34",
        "v93.184.216.34",
        "93.184.216.340",
        "1.3.6.1.4.1.93",
        "93.184.216",
    ],
    "ipv6": [
        "::1",
        "fe80::1",
        "2001:db8::1",
        "x[2000::2]",
        "12:30:45",
        "std::cafe",
        "a::b::c",
        "2001:4860:4860:zz::8888",
    ],
}


def found(name: str, text: str) -> list[str]:
    """What a rule finds in a text."""
    rule = next(rule for rule in RULES if rule.name == name)
    return [text[start:end] for finding in rule.find(Searched(text)) for start, end in finding.spans]


def clean(text: str, **options) -> str:
    """The text that the step leaves."""
    return PersonalData(**options).codex_cleaner(None).clean(Document("a", "a", text)).document.text


@pytest.mark.parametrize("name", NAMES)
def test_each_rule_finds_what_it_is_for(name):
    """Every rule finds its texts whole: alone, in a sentence, in quotes, and in a very long line."""
    for text in FOUND[name]:
        for around in ("{}", "say {} now", "x = '{}'\n", "({}), ", "to: {}.\n", "<{}>;"):
            if name == "phone" and around.startswith("("):
                continue
            assert found(name, around.format(text)) == [text], around
        assert found(name, "lorem ipsum " * 3000 + text + " dolor sit" * 3000) == [text]


@pytest.mark.parametrize("name", NAMES)
def test_each_rule_leaves_alone_what_only_looks_like_it(name):
    """Every rule has texts that resemble what it is for, in which it finds nothing."""
    for text in LEFT[name]:
        assert found(name, text) == [], text
        assert found(name, f"a\n '{text}'\n") == [], text


def test_a_social_security_number_is_redacted_and_a_class_name_passes():
    """The number goes and the line stays; an identifier that has the letters of a rule in it is none."""
    assert clean("ssn = '123-45-6789'\nclassName = 'a'\n") == (
        "ssn = '<REDACTED:us-social-security-number>'\nclassName = 'a'\n"
    )


def test_what_is_allowed_is_allowed_for_itself_alone():
    """An allow expression lets one address pass, and no other in the same text."""
    text = "help@company.com and jane@company.com"
    assert clean(text, allow=[r"help@.*"]) == "help@company.com and <REDACTED:email>"


def test_rules_can_be_turned_off():
    """`disable` takes rules away by name; a name that no rule has is an error that lists them."""
    assert clean("93.184.216.34", disable=["ipv4"]) == "93.184.216.34"
    with pytest.raises(
        ValueError, match=r"disable: expected names of rules, got 'pager' \(there are credit-card, email"
    ):
        PersonalData(disable=["pager"])
    with pytest.raises(ValueError, match="is not a regular expression"):
        PersonalData(allow=["["])


def test_drop_and_block_do_what_they_say():
    """`drop` leaves the document out with a count, `block` names document, place and rule and not the address."""
    document = Document("mails.txt", "a", "one\njane@company.com\n")
    answer = PersonalData(action="drop").codex_cleaner(None).clean(document)
    assert (answer.document, answer.counts) == (None, {"found email": 1})
    with pytest.raises(InputError, match=r"document 'mails.txt': text, line 2: found email") as caught:
        PersonalData(action="block").codex_cleaner(None).clean(document)
    assert "jane" not in f"{caught.value!r} {caught.value.remedy}"


@given(st.integers(0, 10**15 - 1), st.sampled_from(["4", "51", "37", "6011"]))
def test_one_wrong_digit_makes_no_card(number, prefix):
    """Of the ten numbers that differ in the last digit alone, exactly one is a card."""
    length = 15 if prefix == "37" else 16
    body = (prefix + f"{number:015d}")[: length - 1]
    assert sum(bool(found("credit-card", f"{body}{digit}")) for digit in range(10)) == 1


@given(st.text(alphabet="0123456789-.:+() @abcfx\n", max_size=200))
def test_redaction_is_done_after_one_pass(text):
    """Whatever a text is, the lines stay, and a second pass finds nothing."""
    once = clean(text)
    assert once.count("\n") == text.count("\n")
    assert clean(once) == once
