"""What a conditional bijector and its distribution are: the contract and its parts."""
