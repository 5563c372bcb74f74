"""Tasks side by side: processes train stages and hand them over to the one that closes them in order."""
