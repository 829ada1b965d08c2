"""Storage Commitment, Push Model (PS3.4 Annex J): asked of receivers, and given to senders.

messages      the data sets of N-ACTION and N-EVENT-REPORT
statuses      which error is answered with which DIMSE status
associations  requesting an association for the service
asking        SCU: the loop that asks receivers
answers       SCU: what an answer does to deliveries
forgetting    SCU: old questions are deleted
orders        SCP: a sender's question becomes a row
judging       SCP: which of the instances asked about are stored
reporting     SCP: the loop that answers
handlers      pynetdicom events of both
"""
