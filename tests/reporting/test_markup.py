from alexnet_jax.reporting.markup import Html, escaped, joined, tag


def test_text_and_attributes_are_escaped_and_markup_is_not():
    inner = tag('b', '<script>', title='"a" & <b>')
    assert inner == '<b title="&quot;a&quot; &amp; &lt;b&gt;">&lt;script&gt;</b>'
    assert tag('p', inner, ' & ', 3) == f'<p>{inner} &amp; 3</p>'
    assert escaped(Html('<br>')) == '<br>'
    assert joined('<', None, inner) == '&lt;' + inner


def test_control_characters_are_shown_and_not_obeyed():
    """A page with them would be no XML; marks of direction could disguise a name."""
    assert escaped('a\x1b[31m\u202eb\udce9') == r'a\x1b[31m\u202eb\udce9'
    assert escaped('é\n\t\N{NO-BREAK SPACE}%') == 'é\n\t\N{NO-BREAK SPACE}%'
    assert tag('p', title='\0') == r'<p title="\x00"></p>'


def test_names_of_attributes():
    assert (
        tag('path', class_='a', stroke_width=2, d=None)
        == '<path class="a" stroke-width="2"></path>'
    )
    assert tag('meta', name='viewport') == '<meta name="viewport"/>'
