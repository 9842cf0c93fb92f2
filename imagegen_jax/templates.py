"""Text from Jinja2 templates, which lie in the folder `templates` of the package that renders them."""

import jinja2


def render(package, name, /, **values):
    """A template with these values, which are escaped as HTML. A value that it misses is an error."""
    switches = dict.fromkeys(("autoescape", "trim_blocks", "lstrip_blocks", "keep_trailing_newline"), True)
    environment = jinja2.Environment(loader=jinja2.PackageLoader(package), undefined=jinja2.StrictUndefined, **switches)
    return environment.get_template(name).render(values)
