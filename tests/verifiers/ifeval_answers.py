"""Right answers to the tasks of IFEval, made from their instructions: as dull as can be, and they follow every one."""

import json

SAMPLES = {
    "hi": "मैं आज सुबह अपने दोस्त के साथ बाज़ार गया और हमने वहाँ बहुत सारे फल ख़रीदे",
    "kn": "ನಾನು ಇಂದು ಬೆಳಿಗ್ಗೆ ನನ್ನ ಸ್ನೇಹಿತನ ಜೊತೆ ಮಾರುಕಟ್ಟೆಗೆ ಹೋದೆ",
    "mr": "मी आज सकाळी माझ्या मित्रासोबत बाजारात गेलो आणि आम्ही तिथे खूप फळे विकत घेतली आहेत",
    "vi": "Sáng nay tôi đi chợ với bạn của tôi và chúng tôi đã mua rất nhiều trái cây ở đó",
    "ko": "나는 오늘 아침에 친구와 함께 시장에 가서 과일을 많이 샀습니다",
    "sw": "Leo asubuhi nilikwenda sokoni na rafiki yangu na tulinunua matunda mengi kwa ajili ya watoto wetu",
    "de": "Heute Morgen bin ich mit meinem Freund auf den Markt gegangen und wir haben viel Obst gekauft",
    "pa": "ਮੈਂ ਅੱਜ ਸਵੇਰੇ ਆਪਣੇ ਦੋਸਤ ਨਾਲ ਬਾਜ਼ਾਰ ਗਿਆ ਅਤੇ ਅਸੀਂ ਬਹੁਤ ਸਾਰੇ ਫਲ ਖਰੀਦੇ",
    "fa": "امروز صبح با دوستم به بازار رفتم و ما میوه‌های زیادی خریدیم که خیلی خوب بودند",
    "ru": "Сегодня утром я пошёл с другом на рынок и мы купили там очень много фруктов",
    "bg": "Тази сутрин отидох с моя приятел на пазара и купихме много плодове които бяха вкусни",
    "pt": "Hoje de manhã fui ao mercado com o meu amigo e nós não compramos muitas frutas",
    "gu": "હું આજે સવારે મારા મિત્ર સાથે બજારમાં ગયો અને અમે ઘણા ફળો ખરીદ્યા",
    "te": "నేను ఈ రోజు ఉదయం నా స్నేహితుడితో కలిసి మార్కెట్‌కు వెళ్ళాను",
    "it": "Questa mattina sono andato al mercato con il mio amico e abbiamo comprato molta frutta",
    "ar": "ذهبت هذا الصباح مع صديقي إلى السوق واشترينا الكثير من الفواكه من هناك",
    "ta": "நான் இன்று காலை என் நண்பருடன் சந்தைக்குச் சென்று நிறைய பழங்கள் வாங்கினேன்",
    "fi": "Tänä aamuna menin ystäväni kanssa torille ja ostimme sieltä paljon hedelmiä",
    "ur": "آج صبح میں اپنے دوست کے ساتھ بازار گیا اور ہم نے وہاں سے بہت سارے پھل خریدے",
    "th": "เช้านี้ฉันไปตลาดกับเพื่อนของฉันและเราซื้อผลไม้มากมายที่นั่น",
    "ne": "म आज बिहान मेरो साथीसँग बजार गएँ र हामीले त्यहाँ धेरै फलफूल किन्यौं छन्",
    "bn": "আমি আজ সকালে আমার বন্ধুর সাথে বাজারে গিয়েছিলাম এবং আমরা অনেক ফল কিনেছি",
}
ENGLISH = "this morning my friend went with me into the old town and we found many good things there by the river"


def made(kinds, arguments):
    """A response that follows the instructions; arguments as in the rows."""
    asked = [(kind.partition(":")[2], own) for kind, own in zip(kinds, arguments, strict=True)]

    def of(kind, name=None):
        own = next((own for other, own in asked if other == kind), None)
        return own if name is None or own is None else own[name]

    def least(kind, number, relation="relation"):
        return [own for k, own in asked if k == kind and own[relation] == "at least" and own[number] > 0]

    def below(kind, number):
        return min((own[number] for k, own in asked if k == kind and own["relation"] == "less than"), default=None)

    upper, lower = of("english_capital") is not None, of("english_lowercase") is not None
    banned = [*(of("forbidden_words", "forbidden_words") or [])]
    banned += [own["keyword"] for kind, own in asked if kind == "frequency" and own["relation"] == "less than"]
    sample = SAMPLES.get(of("response_language", "language") or "")
    filler = sample or " ".join(word for word in ENGLISH.split() if word not in banned)
    for own in (own for kind, own in asked if kind == "letter_frequency" and own["let_relation"] == "less than"):
        filler = " ".join(word for word in filler.split() if own["letter"].lower() not in word.lower()) or filler
    lines = []
    if words := of("existence", "keywords"):
        lines.append(" and ".join(words))
    for own in least("frequency", "frequency"):
        lines.append(" ".join([own["keyword"]] * own["frequency"]))
    for own in least("letter_frequency", "let_frequency", "let_relation"):
        lines.append(" ".join([own["letter"]] * own["let_frequency"]))
    for own in least("capital_word_frequency", "capital_frequency", "capital_relation"):
        lines.append(" ".join(["YES"] * own["capital_frequency"]))
    if number := of("number_placeholders", "num_placeholders"):
        lines.append(" ".join("[name]" for _ in range(number)))
    if of("constrained_response") is not None:
        lines.append("My answer is maybe.")
    if of("title") is not None:
        lines.insert(0, f"<<{filler.split()[0]}>>")
    if number := of("number_highlighted_sections", "num_highlights"):
        lines.append(" ".join(f"*{filler.split()[0]} {i}*" for i in range(number)))
    if number := of("number_bullet_lists", "num_bullets"):
        lines += [f"* {filler.split()[i % 3]}" for i in range(number)]
    if own := of("multiple_sections"):
        lines += [f"{own['section_spliter']} {i + 1}" for i in range(own["num_sections"])]
    words = max((own["num_words"] for own in least("number_words", "num_words")), default=0)
    fewest = min(below("number_words", "num_words") or 100, 8 * (below("number_sentences", "num_sentences") or 100))
    most = max((own["num_sentences"] for own in least("number_sentences", "num_sentences")), default=0)
    fewest -= len((of("repeat_prompt", "prompt_to_repeat") or "").split())
    short = filler.split()[0].capitalize() + "."
    if fewest > 40 or words:  # a sentence, however long
        lines.append(" ".join([filler] * (1 + words // len(filler.split()))) + ".")
    if not lines:
        lines.append(" ".join(filler.split()[:8]) + ".")
    lines += [short] * (most - 1)
    text = "\n".join(lines)
    if text.startswith("*") and of("quotation") is not None:
        text = f"\n{text}"  # a bullet begins a line
    if of("json_format") is not None:
        text = json.dumps({"text": lines}, ensure_ascii=False)
    if number := of("number_paragraphs", "num_paragraphs"):
        text = "\n***\n".join([text] + [filler] * (number - 1))
    if own := of("nth_paragraph_first_word"):
        parts = [filler] * own["num_paragraphs"]
        parts[-1 if own["nth_paragraph"] == 1 else 0] = text
        parts[own["nth_paragraph"] - 1] = f"{own['first_word']} {parts[own['nth_paragraph'] - 1]}"
        text = "\n\n".join(parts)
    if of("two_responses") is not None:
        text = f"{text}\n******\n{text} {filler}"
    if mark := of("postscript", "postscript_marker"):
        text += f"\n{mark} {filler}"
    if upper or lower:
        text = text.upper() if upper else text.lower()
    if prompt := of("repeat_prompt", "prompt_to_repeat"):
        text = f"{prompt}\n{text}"
    if phrase := of("end_checker", "end_phrase"):
        text += f"\n{phrase.upper() if upper else phrase.lower() if lower else phrase}"
    if of("no_comma") is not None:
        text = text.replace(",", "")
    return f'"{text}"' if of("quotation") is not None else text
