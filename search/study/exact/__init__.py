"""The exact front of bytes and predicted quality, by branch and bound.

Read the modules in this order: `segments` (what a plan decides), `byte_tables` and `plan_table`
(the value of complete plans), `partial_plans`, `segment_graph` and `bounds` (what a partial plan
can still come to), `branch_and_bound` (the search), `counting` (the size of the space).
docs/explanation/exact-front.md works through an example.
"""
