"""Durable jobs: a planner names steps, steps are idempotent, the runner can be killed between any two writes."""
