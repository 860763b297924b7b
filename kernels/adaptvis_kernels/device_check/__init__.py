"""Are the kernels right and fast on the device at hand? ``python -m adaptvis_kernels.device_check``

Prints one block of Markdown, for an issue: the machine, every shipped case of every kernel against
its definition in float64, and a few times beside the device's own ceilings. Needs torch and triton
alone; ``adaptvis doctor --gpu`` prints the same.
"""

from .correctness import Check, Checked, checks, run_checks
from .machine import Machine, NoDevice, choose_device, describe_machine
from .report import checked_table, device_report, jobs_of, machine_table

__all__ = [
    "Check",
    "Checked",
    "Machine",
    "NoDevice",
    "checked_table",
    "checks",
    "choose_device",
    "describe_machine",
    "device_report",
    "jobs_of",
    "machine_table",
    "run_checks",
]
