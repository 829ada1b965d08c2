"""worker.warm_up: it makes every object once, whatever the settings of analysis and objects."""

from models.settings import Settings
from worker.warm_up import warm_up_objects


def test_it_makes_everything_of_an_empty_image() -> None:
    settings = Settings()
    warm_up_objects(settings)  # warnings are errors: nothing that it makes is odd
    zones = settings.analysis.model_copy(update={"zone_score": True})
    root = settings.objects.model_copy(update={"uid_root": "1.2.826.0.1"})
    warm_up_objects(settings.model_copy(update={"analysis": zones, "objects": root}))
