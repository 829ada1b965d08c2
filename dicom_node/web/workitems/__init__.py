"""UPS-RS: Unified Procedure Steps over HTTP (PS3.18 chapter 11), the rows of `worklist.ups`.

search    a query string is read as the identifier of a C-FIND
body      the data set of a request
answers   which error is answered with which status code
service   what each transaction does
channel   events over a WebSocket
routes    the addresses below `/ups-rs`
"""
