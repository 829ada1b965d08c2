"""DICOMweb over what the node holds: QIDO-RS, WADO-RS and STOW-RS (PS3.18 chapter 10)."""
