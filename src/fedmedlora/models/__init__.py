"""The only door to transformers' loading and to peft."""
