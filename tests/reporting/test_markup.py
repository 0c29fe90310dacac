from alexnet_jax.reporting.markup import Html, escaped, joined, tag


def test_text_and_attributes_are_escaped_and_markup_is_not():
    inner = tag('b', '<script>', title='"a" & <b>')
    assert inner == '<b title="&quot;a&quot; &amp; &lt;b&gt;">&lt;script&gt;</b>'
    assert tag('p', inner, ' & ', 3) == f'<p>{inner} &amp; 3</p>'
    assert escaped(Html('<br>')) == '<br>'
    assert joined('<', None, inner) == '&lt;' + inner


def test_names_of_attributes():
    assert (
        tag('path', class_='a', stroke_width=2, d=None)
        == '<path class="a" stroke-width="2"></path>'
    )
    assert tag('meta', name='viewport') == '<meta name="viewport"/>'
