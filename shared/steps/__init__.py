"""How the losses of a batch become gradients, by name."""

from shared.errors import choose
from shared.steps.base import Losses, Pass, Step, StepContext, StepSettings
from shared.steps.surgery import RULES, Surgery
from shared.steps.tc2 import TC2

STEPS: dict[str, type[Step]] = {
    "plain": Step,
    "tc2": TC2,
    **dict.fromkeys(RULES, Surgery),
}


def build_step(settings: StepSettings, context: StepContext) -> Step:
    """Return the named step.

    Raises:
        UserError: An unknown name.
    """
    return choose("step", STEPS, settings.name)(settings, context)


__all__ = ["STEPS", "Losses", "Pass", "Step", "StepContext", "StepSettings", "build_step"]
