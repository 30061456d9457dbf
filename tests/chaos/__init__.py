"""Chaos: real processes, killed, frozen and starved, and the proof from both ends afterwards.

    make chaos                                         a longer run than that of `make test`
    make chaos KILLS=50 SEED=7                         more deaths, in another order
    make chaos SECONDS=600                             each test that can go on keeps on for so long

Each test ends with `Scene.prove`: the hub's books balance, and the twins hold every version of every
key once, in order.
"""
