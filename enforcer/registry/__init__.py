"""The authority's side: the append-only ledger, the portal people use, the signed feed enforcers follow."""
