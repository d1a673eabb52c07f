"""A report as one page of HTML that needs no network; needs jinja2 and matplotlib."""

from collections.abc import Sequence

import jinja2

from .tables import Row, Section


def page(title: str, intro: str, sections: Sequence[Section], report: Row) -> str:
    """The report as HTML.

    Args:
        title: after "STARS engine: ".
        intro: one paragraph.
        sections: in order.
        report: what it was made by: left_out, minutes, minutes_of, commit, command, versions.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_TEMPLATE).render(
        title=title, intro=intro, sections=sections, report=report
    )


_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>STARS engine: {{ title }}</title>
<style>
:root { --ink: #1f2937; --soft: #64748b; --line: #e2e8f0; --gain: #0f766e; --loss: #be123c; }
* { box-sizing: border-box; }
body { margin: 0; background: #f8fafc; color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 28px 18px 60px; }
h1 { font-size: 26px; letter-spacing: -.01em; margin: 0 0 4px; }
h2 { font-size: 18px; margin: 40px 0 4px; }
h3 { font-size: 14px; margin: 18px 0 6px; }
p { margin: 4px 0 12px; color: var(--soft); max-width: 76ch; }
nav { display: flex; flex-wrap: wrap; gap: 6px 14px; margin: 14px 0 0; font-size: 14px; }
a { color: var(--gain); text-decoration: none; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 440px), 1fr));
  gap: 14px; align-items: start; margin: 14px 0; }
.card { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 12px;
  min-width: 0; }
.card svg { display: block; width: 100%; height: auto; font-family: inherit; }
.card svg text { font-family: inherit !important; }
.scroll { overflow-x: auto; background: #fff; border: 1px solid var(--line); border-radius: 10px; }
table { border-collapse: collapse; width: 100%; font-size: 13px;
  font-variant-numeric: tabular-nums; }
th, td { padding: 5px 8px; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; }
.name { text-align: left; }
tr:last-child td { border-bottom: 0; }
@media (max-width: 640px) { td.name { white-space: normal; } }
.clear { font-weight: 700; }
.holds { color: var(--gain); font-weight: 600; }
.does-not-hold { color: var(--loss); font-weight: 600; }
.not-clear { color: var(--soft); font-weight: 600; }
.missing { border: 1px dashed #cbd5e1; border-radius: 10px; padding: 12px 14px; }
code { font: 13px ui-monospace, SFMono-Regular, Menlo, monospace; background: #eef2f7;
  border-radius: 4px; padding: 1px 5px; }
</style>
</head>
<body>
<main>
<h1>STARS engine: {{ title }}</h1>
<p>{{ intro }}</p>
<nav>{% for section in sections %}<a href="#{{ section.anchor }}">{{ section.title }}</a>
{% endfor %}<a href="#made">How it was made</a></nav>
{% for section in sections %}
<h2 id="{{ section.anchor }}">{{ section.title }}</h2>
<p>{{ section.asked }}</p>
{% if section.missing %}<div class="missing">not measured: this report has no
<code>{{ section.missing }}</code></div>{% endif %}
{% if section.claims %}<div class="scroll"><table>
<tr><th class="name">claim</th><th class="name">here</th><th class="name">found</th></tr>
{% for claim in section.claims %}<tr><td class="name">{{ claim.text }}</td>
<td class="name {{ claim.verdict.replace(' ', '-') }}">{{ claim.verdict }}</td>
<td class="name">{{ claim.found }}</td></tr>
{% endfor %}</table></div>{% endif %}
{% if section.charts %}<div class="charts">
{% for chart in section.charts %}<div class="card">{{ chart | safe }}</div>
{% endfor %}</div>{% endif %}
{% for table in section.tables %}{% if table.title %}<h3>{{ table.title }}</h3>{% endif %}
<div class="scroll"><table>
<tr>{% for head in table.heads %}<th{% if loop.index0 < table.names %} class="name"{% endif %}>
{{ head }}</th>{% endfor %}</tr>
{% for row in table.rows %}<tr>{% for cell in row %}<td class="
{%- if loop.index0 < table.names %}name{% endif %}{% if cell.clear %} clear{% endif %}">
{{- cell.text }}</td>{% endfor %}</tr>
{% endfor %}</table></div>{% endfor %}
{% endfor %}
<h2 id="made">How it was made</h2>
{% for line in report.left_out %}<div class="missing">left out: {{ line }}</div>
{% endfor %}<p>{{ report.minutes }} minutes of computing, at commit
<code>{{ report.commit[:12] }}</code>, by <code>{{ report.command }}</code>
({% for name, number in report.versions.items() %}{{ name }} {{ number }}{{ ", " if not loop.last }}
{%- endfor %}).</p>
<div class="scroll"><table><tr><th class="name">part</th><th>minutes</th></tr>
{% for name, minutes in report.minutes_of.items() %}<tr><td class="name">{{ name }}</td>
<td>{{ minutes }}</td></tr>
{% endfor %}</table></div>
</main>
</body>
</html>
"""
