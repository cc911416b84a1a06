"""What a model answers: one label, yes or no about every label, a list. One file a form; `form.py` is their contract.

    form = form_of(settings)
    form.report(...)

Importing this package, as the settings do, makes the forms known to them. A further form is one more file and its line
here.
"""

# In the order in which tasks and methods are listed; the first form of a task is its usual one.
# isort: off
from llmcls.answers import single_label
from llmcls.answers import yes_no
from llmcls.answers import listed

# isort: on
from llmcls.answers.form import Answered, Figure, Form, Layout, Predictor, Shown, Wanted, form_named, form_of, register

__all__ = [
    "Answered",
    "Figure",
    "Form",
    "Layout",
    "Predictor",
    "Shown",
    "Wanted",
    "form_named",
    "form_of",
    "listed",
    "register",
    "single_label",
    "yes_no",
]
