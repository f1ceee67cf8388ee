"""How the losses of a batch become gradients, by name."""

from shared.errors import choose
from shared.steps.base import Losses, Plain, Step, StepContext, StepSettings

STEPS: dict[str, type[Step]] = {
    "plain": Plain,
}


def build_step(settings: StepSettings, context: StepContext) -> Step:
    """Return the named step.

    Raises:
        UserError: An unknown name.
    """
    return choose("step", STEPS, settings.name)(settings, context)


__all__ = ["STEPS", "Losses", "Plain", "Step", "StepContext", "StepSettings", "build_step"]
