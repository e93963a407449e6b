from __future__ import annotations

from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from certloom.pki import names
from certloom.pki.names import Name
from certloom.policy.subjects import OIDS, AttributeType, SubjectAttribute, Template

TYPES: tuple[AttributeType, ...] = get_args(AttributeType)


def test_every_attribute_type_has_its_oid() -> None:
    assert set(TYPES) == set(OIDS)


@given(st.sampled_from(TYPES), st.text(max_size=300))
def test_what_a_template_takes_from_a_csr_can_be_encoded(type: AttributeType, text: str) -> None:
    template = Template((SubjectAttribute(type=type, value=f"{{csr.{type}}}"),), common_name_is_name=False)
    complaints: list[str] = []
    subject = template.render((), Name(((OIDS[type], text),)), complaints.append)
    if subject:
        assert not complaints
        assert names.encode(subject)


@given(st.sampled_from(TYPES), st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=70))
def test_ordinary_text_is_taken_or_complained_about(type: AttributeType, text: str) -> None:
    template = Template((SubjectAttribute(type=type, value=f"{{csr.{type}}}"),), common_name_is_name=False)
    complaints: list[str] = []
    subject = template.render((), Name(((OIDS[type], text),)), complaints.append)
    if type != "CN" and text:
        assert bool(subject) != bool(complaints)
