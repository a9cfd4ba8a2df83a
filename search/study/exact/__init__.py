"""The exact front of bytes and predicted quality, by branch and bound.

Read the modules in this order: `segments` (the decisions of a plan), `byte_tables` and
`plan_table` (bytes and quality of complete plans), `partial_plans`, `segment_graph` and `bounds`
(bounds on the completions of a partial plan), `branch_and_bound` (the search), `counting` (the
size of the space).
docs/explanation/exact-front.md works through an example.
"""
