"""The words of the page, in English and in Chinese.

`Settings` says the English help of its fields itself; what is added here are their labels, and the Chinese.
"""

import re
from dataclasses import fields
from typing import Literal

from ldm.settings import Settings

Language = Literal["en", "zh"]
LOCALES: dict[str, Language] = {"en": "en", "zh-CN": "zh", "zh-TW": "zh"}      # those of Chinese that Gradio knows

WORDS: dict[str, tuple[str, str]] = {                   # key: English, Chinese
    "tab.draw": ("Draw", "绘图"),
    "tab.explain": ("How it works", "工作原理"),
    "tab.history": ("History", "历史"),
    "tab.info": ("PNG info", "图片信息"),

    "task": ("What to do", "任务"),
    "task.txt2img": ("Text to image", "文生图"),
    "task.img2img": ("Image to image", "图生图"),
    "task.inpaint": ("Inpaint", "局部重绘"),
    "task.outpaint": ("Outpaint", "向外扩展"),
    "task.upscale": ("Upscale", "放大"),
    "task.colorize": ("Colorize", "上色"),
    "task.variations": ("Variations", "变体"),
    "task.grid": ("Grid", "网格对比"),
    "about.txt2img": ("Draws what the prompt says.", "按提示词作画。"),
    "about.img2img": ("Redraws a picture under the prompt; the strength says how much of it is new.",
                      "按提示词重画一张图片；重绘强度决定改动多少。"),
    "about.inpaint": ("Repaints what you brush over; the rest stays as it is, bit for bit.",
                      "只重画涂抹过的地方，其余部分逐比特保持不变。"),
    "about.outpaint": ("Paints what lies beyond the sides of a picture, so many pixels each.",
                       "在图片四周向外画出新的内容，每边的像素数由您决定。"),
    "about.upscale": ("Enlarges and redraws a picture, or, without one, what it draws first. A strength of 0.2 with "
                      "sampler dpmpp_2m suits the bundled model.",
                      "放大并重画一张图片；不给图片时先画一张再放大。自带模型适合重绘强度 0.2 和采样器 dpmpp_2m。"),
    "about.colorize": ("Gives a grey picture color and keeps its brightness. A strength near 1 gives the most color.",
                       "为灰度图片上色并保持亮度。重绘强度接近 1 时颜色最丰富。"),
    "about.variations": ("Pictures like that of the seed: its noise is turned towards that of another seed.",
                         "与原种子相似的图片：把它的噪声转向另一个种子的噪声。"),
    "about.grid": ("Every value of one setting against every value of another, as in steps=4,8,16.",
                   "让一项设置的各个取值与另一项的各个取值两两对比，例如 steps=4,8,16。"),

    "label.prompt": ("Prompt", "提示词"),
    "hint.prompt": ("3d render of a fox", "3D渲染的狐狸（其他模型大多只懂英文）"),
    "label.model": ("Model", "模型"),
    "label.vae": ("VAE", "VAE"),
    "help.vae": ("a file whose VAE to take in place of the model's own", "用哪个文件的 VAE 代替模型自带的"),
    "label.prediction": ("Prediction", "预测目标"),
    "help.prediction": ("what the network predicts (default: what the file says)", "网络预测什么（默认：按文件所述）"),
    "label.lora": ("Add a LoRA", "加入 LoRA"),
    "label.embedding": ("Add a textual inversion", "加入文本反转词"),
    "help.lora": ("from the folder loras; its tag goes into the prompt", "来自 loras 文件夹；其标签写入提示词"),
    "help.embedding": ("from the folder embeddings; its word goes into the prompt",
                       "来自 embeddings 文件夹；其词写入提示词"),
    "label.image": ("Picture", "图片"),
    "label.editor": ("Picture", "图片"),
    "hint.editor": ("Drop a picture,\nthen brush over it", "先放入图片，\n再涂抹要重绘处"),
    "label.left": ("Left", "左"),
    "label.top": ("Top", "上"),
    "label.right": ("Right", "右"),
    "label.bottom": ("Bottom", "下"),
    "label.fill": ("Fill beneath", "底色填充"),
    "label.scale": ("Scale", "放大倍数"),
    "label.unet_tile": ("UNet tile", "UNet 分块"),
    "help.unet_tile": ("squares of so many pixels, a multiple of 8 from 32 on, for pictures larger than memory",
                       "按此边长（像素，32 起，8 的倍数）分块处理，适用于内存放不下的大图"),
    "label.noise_level": ("Noise level", "噪声等级"),
    "help.noise_level": ("of the x4 upscaler alone, 0 to 350", "仅用于 x4 放大模型，0 到 350"),
    "label.variation_seed": ("Variation seed", "变体种子"),
    "label.variation_strength": ("Variation strength", "变体强度"),
    "help.variation_strength": ("0 is the picture of the seed, 1 that of the variation seed",
                                "0 为原种子的图片，1 为变体种子的图片"),
    "label.x": ("Across (x)", "横轴 (x)"),
    "label.y": ("Down (y)", "纵轴 (y)"),
    "help.x": ("setting=value,value,...", "设置名=取值,取值,…"),
    "help.y": ("may stay empty", "可以留空"),

    "label.negative_prompt": ("Negative prompt", "反向提示词"),
    "label.steps": ("Steps", "步数"),
    "label.guidance": ("Guidance", "提示词引导强度"),
    "label.guidance_rescale": ("Guidance rescale", "引导重缩放"),
    "label.sampler": ("Sampler", "采样器"),
    "label.spacing": ("Spacing", "噪声间距"),
    "label.preset": ("Preset", "预设"),
    "label.noise": ("Noise source", "噪声来源"),
    "label.eta": ("Eta", "Eta"),
    "label.seed": ("Seed", "种子"),
    "label.width": ("Width", "宽度"),
    "label.height": ("Height", "高度"),
    "label.count": ("Pictures", "张数"),
    "label.strength": ("Strength", "重绘强度"),
    "label.mask_blur": ("Mask blur", "蒙版模糊"),
    "label.only_masked": ("Only masked", "仅蒙版区域"),
    "label.prompt_syntax": ("Prompt syntax", "提示词语法"),
    "label.clip_skip": ("Clip skip", "跳过 CLIP 层"),
    "label.cache": ("Step cache", "步间缓存"),
    "label.guidance_min_sigma": ("Guidance above", "引导下限"),
    "label.guidance_max_sigma": ("Guidance up to", "引导上限"),
    "label.tile": ("VAE tile", "VAE 分块"),
    "auto": ("auto", "自动"),
    "whole": ("as a whole", "整张"),
    "own": ("the model's own", "模型自带"),

    "group.plugins": ("LoRAs and textual inversions", "LoRA 与文本反转"),
    "group.more": ("More settings", "更多设置"),
    "group.json": ("As JSON", "JSON 格式"),
    "button.draw": ("Draw", "开始绘图"),
    "button.interrupt": ("Interrupt", "中断"),
    "button.refresh": ("Refresh lists", "刷新列表"),
    "button.dice": ("Any seed", "随机种子"),
    "button.reuse": ("Last seed", "上次种子"),
    "button.to_form": ("Settings to the form", "设置填入表单"),
    "button.to_input": ("Use as input picture", "用作输入图片"),
    "button.newer": ("Newer", "较新"),
    "button.older": ("Older", "较旧"),
    "button.explain": ("Draw and explain", "绘图并讲解"),
    "label.gallery": ("Pictures", "图片"),
    "label.made_with": ("Settings of the selected picture", "所选图片的设置"),
    "label.drop": ("Drop a picture here: PNG, JPEG or WebP", "把图片拖到这里：PNG、JPEG 或 WebP"),
    "label.status": ("Progress", "进度"),

    "help.seed": ("a whole number; -1 is another one each time", "整数；-1 表示每次随机"),
    "state.ready": ("Ready. Type a prompt and press Draw, or Ctrl+Enter.",
                    "就绪。输入提示词后点“开始绘图”，或按 Ctrl+Enter。"),
    "state.queued": ("Waiting: {place} of {waiting} in the queue.", "排队中：第 {place} 位，共 {waiting} 个任务。"),
    "state.loading": ("Preparing the model.", "正在准备模型。"),
    "state.running": ("Step {step} of {steps}", "第 {step} 步，共 {steps} 步"),
    "state.pass": (", pass {passed} of {passes}", "，第 {passed} 遍，共 {passes} 遍"),
    "state.left": (", about {seconds} s left", "，约剩 {seconds} 秒"),
    "state.done": ("Done in {seconds} s.", "完成，用时 {seconds} 秒。"),
    "state.cancelled": ("Interrupted.", "已中断。"),
    "state.failed": ("This did not work: {error}", "出错：{error}"),
    "state.full": ("The queue is full: {error}", "队列已满：{error}"),
    "state.note": ("Note: {note}", "提示：{note}"),
    "state.model": ("Model {model}: draws at {size}x{size}, guidance {guidance:g}.",
                    "模型 {model}：原生尺寸 {size}x{size}，引导强度 {guidance:g}。"),
    "state.preview": ("Preview of the picture that is being drawn", "正在绘制的图片的预览"),
    "state.refreshed": ("{models} models, {loras} LoRAs, {embeddings} textual inversions.",
                        "模型 {models} 个，LoRA {loras} 个，文本反转词 {embeddings} 个。"),
    "state.filled": ("The form has the settings of {name}.", "表单已填入 {name} 的设置。"),
    "state.none": ("No picture is selected; select one.", "尚未选择图片，请先选择一张。"),
    "state.empty": ("There is no picture yet.", "还没有图片。"),
    "state.page": ("Pictures {first} to {last}", "第 {first} 到 {last} 张"),
    "note.unused": ("not taken over: {what}", "未采用：{what}"),
    "note.model": ("drawn by model {model}, which is not here", "由模型 {model} 绘制，此处没有该模型"),
    "note.vae": ("drawn with the VAE {model}, which is not here", "使用了 VAE {model}，此处没有"),
    "note.inputs": ("made from an input picture; give that again", "由输入图片生成；请重新给出该图片"),

    "explain.about": ("Draws one picture of the form's prompt, and shows what happens on the way.",
                      "用表单中的提示词画一张图，并展示其中的过程。"),
    "explain.plan": ("The plan", "运行计划（英文）"),
    "explain.tokens": ("Tokens, as the text encoder reads them", "文本编码器读到的词元"),
    "explain.chunk": ("Chunk {i} of {n}: {used} of 75 tokens", "第 {i} 段，共 {n} 段：75 个词元中用了 {used} 个"),
    "explain.negative": ("Negative prompt", "反向提示词"),
    "explain.empty": ("(empty)", "（空）"),
    "explain.token": ("token", "词元"),
    "explain.id": ("id", "编号"),
    "explain.weight": ("weight", "权重"),
    "explain.schedule": ("Noise schedule: noise level sigma before each step", "噪声计划：每一步之前的噪声水平 sigma"),
    "explain.step": ("step", "步"),
    "explain.sigma": ("noise level (sigma)", "噪声水平 (sigma)"),
    "explain.strip": ("Step by step: the latents, and what the model expects in the end",
                      "逐步过程：潜变量，以及模型预计的最终结果"),
    "explain.noisy": ("after step {i}, sigma {sigma:.2g}", "第 {i} 步后，sigma {sigma:.2g}"),
    "explain.x0": ("expected at step {i}", "第 {i} 步的预计结果"),
    "explain.word": ("{word} ({share:.1%})", "{word}（{share:.1%}）"),
    "explain.maps": ("Where each word looks: cross-attention, mean of heads, layers and steps",
                     "每个词关注何处：交叉注意力，取各头、各层、各步的平均"),
    "explain.maps_about": ("The brighter a place, the more of its attention went to the word, from none to the most "
                           "that any place gave it. In brackets is the word's share over the whole picture.",
                           "越亮的地方给这个词的注意力越多，从零到该词所得的最大值。括号内是该词在整张图上所占的份额。"),
    "explain.picture": ("the picture", "图片"),
    "explain.start": ("(start)", "（起始）"),
    "explain.padding": ("(end, padding)", "（结束与填充）"),
}

CHINESE_HELP = {                                        # of the fields of Settings
    "negative_prompt": "图片中不应出现的内容",
    "steps": "采样步数，1 到 999",
    "guidance": "提示词的作用强度；1 为不引导（默认：模型自己的值，否则 7.5）",
    "guidance_rescale": "收回引导增加的对比度，0（不收回）到 1（全部）",
    "sampler": "采样方法",
    "spacing": "噪声水平的间距（默认：采样器自己的）",
    "preset": "像其他程序那样采样：噪声水平、起点、噪声",
    "noise": "噪声的来源：cpu，或 nv（NVIDIA GPU 的画法）（默认：预设的来源）",
    "eta": "ddim 的新增噪声，0（无）到 1（同 ddpm）",
    "seed": "第一张图片噪声的种子；第 i 张用 种子 + i",
    "width": "宽度（像素），8 的倍数（默认：模型或输入图片的）",
    "height": "高度（像素），8 的倍数（默认：模型或输入图片的）",
    "count": "每个提示词画几张",
    "strength": "有输入图片时：重做的步数份额，大于 0，至 1",
    "mask_blur": "有蒙版时：柔化边缘，标准差（像素）",
    "only_masked": "有蒙版时：只画蒙版及其周围这么多像素，以原生尺寸绘制后贴回（默认：整张）",
    "prompt_syntax": "提示词的读法：a1111 支持权重 (word:1.3)、中途变化 [from:to:0.5] 和 BREAK；plain 按字面读取",
    "clip_skip": "略去文本编码器最后 n - 1 层；1 表示不略去",
    "cache": "近似：UNet 的深层部分每 n 次只算一次；1 为精确",
    "guidance_min_sigma": "近似：噪声水平不高于此值时不引导",
    "guidance_max_sigma": "近似：噪声水平（从约 14.6 下降）高于此值时不引导",
    "tile": "近似：图片与潜变量按此边长（像素，32 起，8 的倍数）分块转换，更省内存（默认：整张）",
}


def words(language: Language) -> dict[str, str]:
    """Every text of the page in one language, by key."""
    helps = {f.name: f.metadata["help"] for f in fields(Settings)} if language == "en" else CHINESE_HELP
    column = 0 if language == "en" else 1
    return {f"help.{name}": text for name, text in helps.items()} | {key: both[column] for key, both in WORDS.items()}


def language_of(accept: str) -> Language:
    """The language for a browser, by its header Accept-Language: as Gradio, that of its first choice, else English."""
    return LOCALES.get(re.split("[,;]", accept)[0].strip(), "en")


def say(language: Language, key: str, **values: object) -> str:
    """One text with its gaps filled."""
    return WORDS[key][0 if language == "en" else 1].format(**values)
