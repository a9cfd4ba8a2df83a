"""The exact front by branch and bound."""
