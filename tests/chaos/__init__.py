"""Chaos: real processes, killed, frozen and starved, and the proof from both ends afterwards.

    make chaos                                         a longer run than that of `make test`
    CHAOS_KILLS=50 CHAOS_SEED=7 make chaos             more deaths, in another order
    CHAOS_SECONDS=600 make chaos                       each test that can go on keeps on for so long

Each test ends with `Scene.prove`: the hub's books balance, and the twins hold every version of every
key once, in order.
"""
