"""Chat templates: those in the wild work, those that mean harm do not."""

from datetime import datetime

import pytest

from lengthwise_router.text.sandbox.chat import ChatTemplate, TemplateRefuses

LLAMA_3 = """{%- set loop_messages = messages %}
{%- for message in loop_messages %}
    {%- set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' %}
    {%- if loop.index0 == 0 %}
        {%- set content = bos_token + content %}
    {%- endif %}
    {{- content }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}"""  # noqa: E501  # as it is in the wild

CHATML = """{% for message in messages %}
    {% if loop.first and message.role != 'system' %}
<|im_start|>system
You are helpful.<|im_end|>
    {% endif %}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}"""

MISTRAL = """{{ bos_token }}{% for message in messages %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('roles must alternate user/assistant') }}
{%- endif %}
{%- if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}
{%- else %}{{ message['content'] + eos_token }}{% endif %}
{%- endfor %}"""

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
HELLO = [{"role": "user", "content": "hello"}]


def render(source: str, messages: list[dict[str, str]] = HELLO) -> str:
    template = ChatTemplate(source, TOKENS, 4 << 20, now=lambda: datetime(2026, 1, 2))
    return template.render(messages)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        pytest.param(
            LLAMA_3,
            "<s><|start_header_id|>user<|end_header_id|>\n\nhello<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
            id="llama 3",
        ),
        pytest.param(
            CHATML,
            "<|im_start|>system\nYou are helpful.<|im_end|>\n"
            "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n",
            id="chatml",
        ),
        pytest.param(MISTRAL, "<s>[INST] hello [/INST]", id="mistral"),
        pytest.param("{{ strftime_now('%d %B %Y') }}", "02 January 2026", id="date"),
        pytest.param(
            "{{ messages[0] | tojson }}", '{"role": "user", "content": "hello"}', id="json"
        ),
        pytest.param("{{ '<é>' | tojson }}", '"<é>"', id="json is not escaped"),
        pytest.param(
            "{{ [1] | tojson(indent=1, separators=(',', ':'), sort_keys=true) }}",
            "[\n 1\n]",
            id="json options",
        ),
        pytest.param(
            "{% for m in [1, 2, 3] %}{% if m == 2 %}{% break %}{% endif %}{{ m }}{% endfor %}",
            "1",
            id="loop controls",
        ),
        pytest.param("{% generation %}a{{ 1 }}{% endgeneration %}b", "a1b", id="generation block"),
        pytest.param("{{ tools is none }} {{ documents is none }}", "True True", id="no tools"),
        pytest.param("{{ unheard_of }}!", "!", id="unknown names are empty"),
    ],
)
def test_it_renders_as_with_transformers(source: str, expected: str) -> None:
    assert render(source) == expected


def test_a_template_may_refuse_a_conversation() -> None:
    with pytest.raises(TemplateRefuses, match="roles must alternate"):
        render(MISTRAL, [{"role": "assistant", "content": "hello"}])


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("{{ ''.__class__.__mro__[1].__subclasses__() }}", id="subclasses"),
        pytest.param("{{ raise_exception.__globals__['json'] }}", id="globals"),
        pytest.param("{{ strftime_now.__code__.co_filename }}", id="code"),
        pytest.param("{{ messages.append(1) }}", id="mutation"),
        pytest.param("{% include '/etc/passwd' %}", id="files"),
        pytest.param("{{ messages[0].nothing.at.all }}", id="undefined"),
        pytest.param("{{ 1 / 0 }}", id="arithmetic"),
        pytest.param("{% for i in range(10 ** 9) %}x{% endfor %}", id="endless"),
        pytest.param(
            "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}", id="more than fits"
        ),
    ],
)
def test_what_a_template_must_not_do_it_fails_at(source: str) -> None:
    with pytest.raises(TemplateRefuses):
        render(source)


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("{{ raise_exception.__globals__ }}", id="globals"),
        pytest.param("{{ ''.__class__ }}", id="class"),
        pytest.param("{{ '{0.__class__}'.format(1) }}", id="format"),
    ],
)
def test_what_the_sandbox_hides_renders_to_nothing(source: str) -> None:
    assert render(source) == ""


@pytest.mark.parametrize("source", ["{% for %}", "{{ 1 | no_such_filter }}"])
def test_a_template_that_does_not_compile_is_refused(source: str) -> None:
    with pytest.raises(TemplateRefuses):
        ChatTemplate(source, {}, 4 << 20)
