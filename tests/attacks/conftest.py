"""The tiny trained run of the command line's tests."""

from ..cli.conftest import _trained as _trained
from ..cli.conftest import here as here
from ..cli.conftest import llmcls as llmcls
from ..cli.conftest import refuse as refuse
from ..cli.conftest import run as run
from ..cli.conftest import tickets as tickets
