"""Weight restrictions: which parameters, and which slices of them, a name like ``"l0h1"`` stands for.

The architecture is read from the model itself. Data flows one way::

    grammar (text → Restriction)
                                   ↘
    stack (embeddings, layers) → attention (projections of a layer) → heads (slices per head) → masks → preview
                                                                          ↑
                                              declared (exceptions), probe (measured layouts)

The public face is :mod:`devinterp.slt.weight_restrictions`.
"""
