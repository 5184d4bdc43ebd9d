"""The bench on published code: checkouts of it are taken by path, and none of it is in here."""
