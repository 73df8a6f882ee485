"""Four trainers to be read top to bottom, and what they share.

    textual_inversion   new words for a frozen model            Gal et al. 2022
    dreambooth          a whole model learns a subject           Ruiz et al. 2023
    lora                a low-rank change beside frozen layers   Hu et al. 2021
    hypernetwork        nets before attention's keys and values  A1111

    from adapterhub.documents import LoraSettings
    from adapterhub.train import lora

    lora.train(LoraSettings(base="model.safetensors", images="fox/", output="out/", prompt="a photo of sks fox"))

Each is settings → base → what is trained → loop → file; `beginning`, `base`, `pictures`, `concept`, `conditioning`, `objective`,
`prior`, `loop`, `state`, `samples` and `results` are those steps, once for all.
"""
