"""Strategies of others to compare a plan with: iGniter and the baselines of its evaluation.

Each is a function ``place(classes, kind)``: one configuration a device, every workload placed
once, shares within the device. Every class has to be feasible alone on the kind of device.
docs/strategies.md says what each takes from its publication, and what it leaves out.
"""
