"""A Pareto local search by tables: very many plans are valued before the first trial.

Read the modules in this order: `valued_plans` (plans as columns, with their values), `valuation`
(the tables, and the limits), `layers` (non-dominated layers, and an order that covers a front),
`pareto_search` (the search), `descent` (the same neighbourhoods, for the fewest bytes).
"""
