"""SGLD sampling of a model's loss around its weights: `sample` and `sample_restrictions`."""
