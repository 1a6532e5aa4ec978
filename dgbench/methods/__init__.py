"""Base classes that an author of a method extends, and tools that several methods share.

Offers `Algorithm`, `Average`, `Merger` and `Adapter`; the losses of each kind of label (`criteria`); optimizers by
the setting (`optimizers`); steps away from the current weights, as in SAM (`ascent`); votes of nearest neighbors
(`neighbors`); and classes written for DomainBed (`foreign`).

May import `core`, `networks` and `data`. Read first: `algorithm`.
"""
