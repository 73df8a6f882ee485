"""The network: the Hugging Face Hub through its own client, plain addresses through that client's session, and Civitai's API.

Nothing here is imported at start-up, and nothing else imports `huggingface_hub`. What comes from there is not trusted: names
are checked before they become paths, sizes before and while bytes come, and a token goes to its own endpoint alone.
"""
