"""The inspector of `tykpy dev`: the page at `/__tykpy`, and what it fetches."""
