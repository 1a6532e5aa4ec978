"""Export one chosen model as a folder that is used without dgbench.

`choice` finds the model that a selector chose, `weights` writes its network, `card` describes it to people, `example`
shows its use, `folder` puts all of it together, and `hub` uploads it. torch is imported by `weights` alone.

Read first: `folder`.
"""
