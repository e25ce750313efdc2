"""The equations of iGniter fitted from outside: no counters, only latencies."""
