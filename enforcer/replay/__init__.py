"""What a policy and an allowlist would have done to recorded traffic: `enforcer replay` (docs/replay.md).

Captures go packet by packet through `decide`; flow logs, which have no payload, through arrays that are checked against `decide`
in each run. Both end as rows in one tally, which the report is made of.
"""
