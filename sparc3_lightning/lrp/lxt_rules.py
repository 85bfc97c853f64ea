"""LXT's gradient rules, imported without the rest of `lxt.efficient`.

`import lxt.efficient` (2.1) fails under transformers 5: its BERT file asks for a name that transformers has removed,
and its ViT file needs a working torchvision. Its rules need neither. The package's own `__init__` is left out here by
putting an empty package in its place while `lxt.efficient.rules` is imported. `tests/unit/lrp/test_lxt_rules.py` fails
as soon as LXT imports by itself: then this file can go.
"""

import importlib
import sys
from importlib.util import find_spec
from types import ModuleType

_PACKAGE = "lxt.efficient"


def _import_rules() -> ModuleType:
    if _PACKAGE in sys.modules:
        return importlib.import_module(f"{_PACKAGE}.rules")
    lxt = find_spec("lxt")
    assert lxt is not None, "lxt is a dependency of this project"
    assert lxt.submodule_search_locations
    package = ModuleType(_PACKAGE)
    package.__path__ = [f"{lxt.submodule_search_locations[0]}/efficient"]
    sys.modules[_PACKAGE] = package
    try:
        return importlib.import_module(f"{_PACKAGE}.rules")
    finally:
        # Whoever imports lxt.efficient later gets LXT's own package, or LXT's own error.
        del sys.modules[_PACKAGE]
        sys.modules.pop(f"{_PACKAGE}.rules", None)


_rules = _import_rules()
divide_gradient = _rules.divide_gradient
stop_gradient = _rules.stop_gradient
