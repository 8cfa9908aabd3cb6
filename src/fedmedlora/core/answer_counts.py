"""Keys under which an extractor counts its answers in the metadata of a predicted document."""

UNALIGNED = "unaligned_predictions"
"""How many answers could not be placed in the note, by label: `{"drug": 2}`."""
NUM_WINDOWS = "num_windows"
"""How many pieces of the note the model was asked about, one answer each."""
NUM_UNPARSABLE = "num_unparsable"
"""Of these, how many answers could not be read at all."""
NUM_TRUNCATED = "num_truncated"
"""Of these, how many answers stopped because they were too long."""
ALIGNMENT = "alignment"
"""How the predictions were found in the note: `{"exact": 12, "fuzzy": 1}`. Left out where all were
exact, as they are by construction unless the model writes freely."""
