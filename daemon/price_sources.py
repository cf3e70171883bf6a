"""Where configured prices come from: the package, PROXY_PRICING_FILE, PROXY_MODEL_PRICING."""

from collections.abc import Callable

from daemon.core.json_places import Problem
from daemon.core.price_sheets import PriceSheetError, load_sheet
from daemon.core.prices import PriceSheet
from daemon.resources import data_file
from daemon.services.pricing import Layer
from daemon.settings import Settings, SettingsProblem


def packaged_sheet() -> PriceSheet:
    """The price sheet of the package."""
    return load_sheet(data_file("models.json").read_bytes())


def price_layers(reread: Callable[[], Settings | list[SettingsProblem]]) -> list[Layer]:
    """What is configured over the package, the lowest first. `reread` gives the settings as they are now.

    Raises:
        PriceSheetError: the settings cannot be read, or the file that they name.
    """
    settings = reread()
    if not isinstance(settings, Settings):
        raise PriceSheetError([Problem(str(problem)) for problem in settings], "settings")
    layers = []
    if settings.pricing_file is not None:
        name = f"PROXY_PRICING_FILE {settings.pricing_file}"
        try:
            layers.append(Layer("file", name, settings.pricing_file.read_bytes()))
        except OSError as error:
            raise PriceSheetError([Problem(f"cannot be read: {error.strerror}")], name) from error
    if settings.model_pricing:
        layers.append(Layer("environment", "PROXY_MODEL_PRICING", settings.model_pricing.encode()))
    return layers
