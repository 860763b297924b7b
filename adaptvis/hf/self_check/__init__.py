"""Does steering do what it is defined to do, on the transformers that is installed?"""

from adaptvis.hf.self_check.check import check_family, require_working

__all__ = ["check_family", "require_working"]
