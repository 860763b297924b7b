"""Does steering do what it is defined to do, on the transformers that is installed?"""

from adaptvis.hf.self_check.check import check_family, limits_of, require_working
from adaptvis.hf.self_check.tiny_models import tiny_families

__all__ = ["check_family", "limits_of", "require_working", "tiny_families"]
