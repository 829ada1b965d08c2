"""The Query/Retrieve SCP: C-FIND, C-MOVE and C-GET of the Study Root model (PS3.4 C.6.2)."""
