"""PID 1: reap, spawn, watch readiness, log, obey the control socket."""
