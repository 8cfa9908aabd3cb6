"""The exceptions that fedmedlora raises on purpose.

Every message has the form *where: what is wrong; expected X, got Y. What to do.* and names files,
lines, ids and offsets only. Note text never enters a message: messages reach logs.
"""


class FedMedLoRAError(Exception):
    """Anything that fedmedlora refuses or could not do; the message says what to do about it."""


class ConfigError(FedMedLoRAError, ValueError):
    """A study file or an option is wrong; carries every fault found, one a line."""


class CorpusError(FedMedLoRAError, ValueError):
    """A corpus cannot be read exactly as it is."""


class AdapterMismatchError(FedMedLoRAError, ValueError):
    """Adapters of different base models, shapes or modules were brought together."""


class ExchangeError(FedMedLoRAError, ValueError):
    """A message between server and site is damaged, or not one of the declared kinds."""


class AggregationError(FedMedLoRAError, ValueError):
    """Site updates cannot be merged into one adapter."""


class InferenceError(FedMedLoRAError, RuntimeError):
    """Extraction could not be carried out."""


class ModelError(FedMedLoRAError, RuntimeError):
    """A base model is missing, damaged or of a kind that cannot be used."""


class RunStoreError(FedMedLoRAError, RuntimeError):
    """A run directory cannot be written, or what it holds is damaged or foreign."""


class MissingExtraError(FedMedLoRAError, ImportError):
    """An optional dependency is not installed; the message names the extra."""
