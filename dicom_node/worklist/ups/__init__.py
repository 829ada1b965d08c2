"""Unified Procedure Steps over DIMSE (PS3.4 Annex CC): SCP of Pull, Watch, Query; SCU of Push.

names       SOP Classes, well-known UIDs, action types, attributes
statuses    which error is answered with which DIMSE status
described   the data set of a workitem
search      C-FIND: which workitems match
acts        what N-ACTION and N-SET do to rows
service     requests and responses on an association
courier     N-EVENT-REPORT and N-CREATE to one AE, with retries
upkeep      workitems of earlier reports are made, old ones forgotten
"""
